"""How much fits on the device: the sizes of an engine from its options, its model and the memory there is."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from jinfer.config import EngineConfig, Limits
from jinfer.errors import ConfigError, InsufficientMemoryError
from jinfer.models.config import ModelConfig
from jinfer.models.model import Model
from jinfer.models.weights import num_bytes

logger = logging.getLogger(__name__)

GB = 10**9
MEMINFO = Path("/proc/meminfo")
MIN_PAGES = 2  # the null page and one to use
MOST_CACHE_BYTES_ON_CPU = 1 * GB  # a laptop's memory belongs to others as well; num_pages overrides
LOGITS_COPIES = 6  # float32 [rows, vocab] arrays that sampling may hold at a time: logits, noise, probabilities, bits
ACTIVATION_COPIES = 4  # of the widest activations of a step, between two layers
FIXED_WORKSPACE_BYTES = 512 * 10**6  # cuBLAS workspaces and CUDA graphs


@dataclass(frozen=True)
class DeviceDefaults:
    """What an option that is None means on a kind of device."""

    dtype: str
    max_num_seqs: int
    max_num_batched_tokens: int


GPU_DEFAULTS = DeviceDefaults("bfloat16", 256, 4096)
CPU_DEFAULTS = DeviceDefaults("float32", 8, 256)


def device_defaults(device: jax.Device) -> DeviceDefaults:
    """The defaults of the device's platform."""
    return GPU_DEFAULTS if device.platform == "gpu" else CPU_DEFAULTS


def choose_dtype(config: EngineConfig, device: jax.Device) -> jnp.dtype:
    """The dtype of weights, activations and cache."""
    return jnp.dtype(config.dtype or device_defaults(device).dtype)


def check_weights_fit(model: Model, config: EngineConfig, device: jax.Device) -> None:
    """Raises InsufficientMemoryError before anything is loaded, if the weights alone are too much."""
    needed, available = num_bytes(model.abstract_params), _available_bytes(config, device)
    if needed > available:
        raise InsufficientMemoryError(
            f"the weights need {needed / GB:.2f} GB and {_share(config, device)} leaves {available / GB:.2f} GB; "
            "use a smaller model, bfloat16, or a device with more memory"
        )


def plan_limits(config: EngineConfig, model: ModelConfig, dtype: jnp.dtype, device: jax.Device) -> Limits:
    """Makes every choice that `config` leaves open, with the weights on the device already.

    Raises ConfigError for options that contradict each other, InsufficientMemoryError for a cache that does not fit.
    """
    defaults = device_defaults(device)
    max_num_batched_tokens = config.max_num_batched_tokens or defaults.max_num_batched_tokens
    max_num_seqs = config.max_num_seqs or min(defaults.max_num_seqs, max_num_batched_tokens)
    if max_num_seqs > max_num_batched_tokens:
        raise ConfigError(
            f"max_num_seqs={max_num_seqs} sequences may each have a token in a step, and max_num_batched_tokens="
            f"{max_num_batched_tokens} holds fewer; raise it or lower max_num_seqs"
        )
    context = _context(config, model)
    page_bytes = 2 * model.num_layers * config.page_size * model.num_kv_heads * model.head_dim * dtype.itemsize
    workspace = _workspace_bytes(model, max_num_seqs, max_num_batched_tokens, dtype)
    left = _available_bytes(config, device) - workspace
    num_pages = config.num_pages
    if num_pages is None:
        wanted = max_num_seqs * -(-context // config.page_size) + 1
        most = left if device.platform == "gpu" else min(left, MOST_CACHE_BYTES_ON_CPU)
        num_pages = max(MIN_PAGES, min(wanted, most // page_bytes))
    if num_pages * page_bytes > left:
        raise InsufficientMemoryError(
            f"a KV cache of {num_pages} pages of {config.page_size} tokens needs {num_pages * page_bytes / GB:.2f} GB; "
            f"{_share(config, device)} leaves {max(left, 0) / GB:.2f} GB for it after {workspace / GB:.2f} GB of "
            f"workspace, which is {max(left, 0) // page_bytes} pages; lower num_pages, max_num_seqs or "
            "max_num_batched_tokens, or raise gpu_memory_utilization"
        )
    return _checked_context(config, context, Limits(
        page_size=config.page_size,
        num_pages=num_pages,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=min(context, (num_pages - 1) * config.page_size),
    ))  # fmt: skip


def _checked_context(config: EngineConfig, context: int, limits: Limits) -> Limits:
    """Says so, or refuses if the user asked for more, when the pages hold less than the context."""
    if limits.max_model_len == context:
        return limits
    message = f"{limits.num_pages - 1} pages of {limits.page_size} hold {limits.max_model_len} tokens"
    if config.max_model_len is not None:
        raise InsufficientMemoryError(
            f"{message}, fewer than max_model_len={config.max_model_len}; raise num_pages or lower max_model_len"
        )
    logger.info("%s: the context is that long, not the model's %d", message, context)
    return limits


def _context(config: EngineConfig, model: ModelConfig) -> int:
    most = model.max_position_embeddings
    if config.max_model_len is not None and config.max_model_len > most:
        raise ConfigError(
            f"max_model_len={config.max_model_len} exceeds the {most} positions that the model was made for; "
            f"lower it to {most} or leave it out"
        )
    return config.max_model_len or most


def _workspace_bytes(model: ModelConfig, rows: int, tokens: int, dtype: jnp.dtype) -> int:
    """An upper estimate of what a step needs beside weights and cache."""
    widest = 2 * model.intermediate_size + 2 * model.hidden_size + model.num_heads * model.head_dim
    logits = LOGITS_COPIES * rows * model.vocab_size * 4
    return FIXED_WORKSPACE_BYTES + logits + ACTIVATION_COPIES * tokens * widest * dtype.itemsize


def _available_bytes(config: EngineConfig, device: jax.Device) -> int:
    """The share of the device's memory that jinfer may use, less what is in use."""
    stats = device.memory_stats()
    if stats is None:  # a CPU
        return int(_available_host_bytes() * config.gpu_memory_utilization)
    return int(stats["bytes_limit"] * config.gpu_memory_utilization) - stats["bytes_in_use"]


def _available_host_bytes() -> int:
    """The host's memory that programs can have. Cached files count as free: the kernel drops them when it must."""
    if MEMINFO.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _share(config: EngineConfig, device: jax.Device) -> str:
    return f"gpu_memory_utilization={config.gpu_memory_utilization} of {device.device_kind}"
