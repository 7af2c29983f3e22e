"""The sizes that fit on the device: those of an engine from its options, its model and the memory there is.

`choose_limits` makes the choices that need no memory, before anything is loaded; `plan_memory` counts the
pages, when it is known what weights and steps take; `check_workspace` looks at the steps as they were
compiled in the end.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp

from jinfer.batching.buckets import StepShape
from jinfer.config import CacheOptions, DType, EngineConfig, EngineLimits
from jinfer.errors import ConfigError, InsufficientMemoryError
from jinfer.execution.device_memory import GB, DeviceMemory
from jinfer.execution.kv_cache import KVLayout, check_cache_dtype
from jinfer.execution.memory_plan import MemoryPlan
from jinfer.execution.workspace import estimated_workspace_bytes, largest_workspace_bytes, split_steps_bytes
from jinfer.models.config import ExpertsConfig, ModelConfig
from jinfer.models.model import Model
from jinfer.weights.params import num_bytes

logger = logging.getLogger(__name__)

MIN_PAGES = 2  # the null page and one to use
PROVISIONAL_PAGES = 1024  # of the limits that steps are compiled for to learn of their workspace
# Beside what steps say they need: cuBLAS, CUDA graphs, results, gaps between arrays.
RESERVE_BYTES = 512 * 10**6


@dataclass(frozen=True)
class DeviceDefaults:
    """The meaning of an option that is None, by kind of device."""

    dtype: str
    max_num_seqs: int
    max_num_batched_tokens: int


GPU_DEFAULTS = DeviceDefaults("bfloat16", 256, 4096)
CPU_DEFAULTS = DeviceDefaults("float32", 8, 256)


@dataclass(frozen=True)
class MemoryNeeds:
    """The memory that an engine takes of a device: weights that it loads, a page of the cache, and what steps
    need beside them."""

    weight_bytes: int
    page_bytes: int
    workspace_bytes: int

    @classmethod
    def of(
        cls,
        model: ModelConfig,
        limits: EngineLimits,
        dtype: jnp.dtype,
        *,
        weight_bytes: int,
        step_bytes: int | None,
    ) -> "MemoryNeeds":
        """`step_bytes` is the workspace of the largest step. None, where it is not known, is estimated. What
        steps in two halves keep is counted, whether or not a request will need them."""
        if step_bytes is None:
            step_bytes = estimated_workspace_bytes(model, limits, dtype)
        return cls(
            weight_bytes,
            KVLayout.in_limits(model, limits, dtype).page_bytes,
            step_bytes + split_steps_bytes(model.vocab_size, limits) + RESERVE_BYTES,
        )


def device_defaults(device: jax.Device) -> DeviceDefaults:
    """The defaults of the device's platform."""
    return GPU_DEFAULTS if device.platform == "gpu" else CPU_DEFAULTS


def choose_dtype(chosen: DType | None, device: jax.Device) -> jnp.dtype:
    """The dtype of weights, activations and cache: the one that is chosen, or the device's default."""
    return jnp.dtype(chosen or device_defaults(device).dtype)


def check_weights_fit(model: Model, utilization: float | int, device: jax.Device) -> None:
    """Raises InsufficientMemoryError before anything is loaded, if the weights alone are too much."""
    memory = DeviceMemory.of(device)
    needed = num_bytes(model.abstract_params)
    available = memory.available_bytes(utilization)
    share = memory.share(utilization)
    if needed > available:
        raise InsufficientMemoryError(
            f"the weights need {needed / GB:.2f} GB and {share} leaves {max(0, available) / GB:.2f} GB; "
            f"use a smaller model, bfloat16, or a device with more memory{memory.remedy}"
        )


def choose_limits(config: EngineConfig, model: ModelConfig, device: jax.Device) -> EngineLimits:
    """Every choice that the options leave open, as if memory held the whole context; `num_pages` is
    provisional.

    Raises ConfigError for options that contradict each other.
    """
    cache, scheduler, defaults = config.cache, config.scheduler, device_defaults(device)
    check_cache_dtype(model, cache.kv_cache_dtype)
    max_num_batched_tokens = scheduler.max_num_batched_tokens or defaults.max_num_batched_tokens
    max_num_seqs = scheduler.max_num_seqs or min(defaults.max_num_seqs, max_num_batched_tokens)
    if max_num_seqs > max_num_batched_tokens:
        raise ConfigError(
            f"max_num_seqs={max_num_seqs} sequences may each have a token in a step, and "
            f"max_num_batched_tokens={max_num_batched_tokens} holds fewer; raise it or lower max_num_seqs"
        )
    return EngineLimits(
        page_size=cache.page_size,
        num_pages=cache.num_pages or PROVISIONAL_PAGES,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=_context(cache.max_model_len, model),
        kv_cache_dtype=cache.kv_cache_dtype,
        num_experts=_num_experts(model) if config.model.routed_experts else None,
    )


def _num_experts(model: ModelConfig) -> int:
    """The experts of the layers that have the most. Raises ConfigError if there are none."""
    if not any(isinstance(layer.mlp, ExpertsConfig) for layer in model.layers):
        raise ConfigError(
            f"routed_experts=True, and {model.architecture} has no layer with experts here; leave it out"
        )
    return max(layer.mlp.num_experts for layer in model.layers if isinstance(layer.mlp, ExpertsConfig))


def check_fits(
    cache: CacheOptions,
    chosen: EngineLimits,
    model: ModelConfig,
    dtype: jnp.dtype,
    memory: DeviceMemory,
    weight_bytes: int,
) -> None:
    """Raises InsufficientMemoryError for what `plan_memory` will refuse, however little the steps need: this
    is known before weights are read. `weight_bytes` are those that will be."""
    needs = MemoryNeeds.of(model, chosen, dtype, weight_bytes=weight_bytes, step_bytes=0)
    # The context is told once, by the plan.
    unspoken = replace(cache, max_model_len=cache.max_model_len or "auto")
    plan_memory(unspoken, chosen, memory, needs)


def plan_memory(
    cache: CacheOptions, chosen: EngineLimits, memory: DeviceMemory, needs: MemoryNeeds
) -> MemoryPlan:
    """Gives the cache what weights and workspace leave. `chosen` is what `choose_limits` says.

    Raises InsufficientMemoryError for a cache that does not fit, or that holds less than the context asked
    for.
    """
    left = memory.available_bytes(cache.gpu_memory_utilization) - needs.weight_bytes - needs.workspace_bytes
    num_pages = cache.num_pages or _max_pages(chosen, left, memory.max_cache_bytes, needs.page_bytes)
    if num_pages * needs.page_bytes > left:
        share = memory.share(cache.gpu_memory_utilization)
        raise InsufficientMemoryError(
            f"a KV cache of {num_pages} pages of {chosen.page_size} tokens needs "
            f"{num_pages * needs.page_bytes / GB:.2f} GB; {share} leaves {max(left, 0) / GB:.2f} GB for it "
            f"after {needs.weight_bytes / GB:.2f} GB of weights and {needs.workspace_bytes / GB:.2f} GB of "
            f"workspace, which is {max(left, 0) // needs.page_bytes} pages; lower num_pages, max_num_seqs "
            f"or max_num_batched_tokens, or raise gpu_memory_utilization{memory.remedy}"
        )
    max_model_len = min(chosen.max_model_len, (num_pages - 1) * chosen.page_size)
    limits = replace(chosen, num_pages=num_pages, max_model_len=max_model_len)
    _check_context(cache.max_model_len, chosen.max_model_len, limits)
    return MemoryPlan(
        device_bytes=memory.total_bytes,
        utilization=float(cache.gpu_memory_utilization),
        in_use_bytes=memory.in_use_bytes,
        weight_bytes=needs.weight_bytes,
        workspace_bytes=needs.workspace_bytes,
        cache_bytes=num_pages * needs.page_bytes,
        limits=limits,
    )


def check_workspace(plan: MemoryPlan, steps: Mapping[StepShape, jax.stages.Compiled]) -> None:
    """Warns if a step, as it was compiled in the end, needs more than was planned for any, the reserve
    included."""
    needed = largest_workspace_bytes(steps)
    if needed is not None and needed > plan.workspace_bytes:
        logger.warning(
            "a step needs %.2f GB of workspace, and %.2f GB were planned: what gpu_memory_utilization "
            "leaves has to do",
            needed / GB,
            plan.workspace_bytes / GB,
        )


def _max_pages(limits: EngineLimits, left_bytes: int, max_bytes: int | None, page_bytes: int) -> int:
    """The pages that all rows can use, or those that there is memory for.

    The number is a shape, and steps are found again on disk by their shapes: it is rounded down, by less than
    a 256th, so that a few bytes more or less in use do not make it another.
    """
    wanted = limits.max_num_seqs * limits.pages_per_sequence + 1
    fits = (left_bytes if max_bytes is None else min(left_bytes, max_bytes)) // page_bytes
    step = 1 << max(0, (max(fits, 0) // 256).bit_length() - 1)
    return max(MIN_PAGES, min(wanted, fits // step * step))


def _check_context(wanted: int | str | None, context: int, limits: EngineLimits) -> None:
    """Says so, or refuses if the user asked for more, when the pages hold less than the context."""
    if limits.max_model_len == context or wanted == "auto":
        return
    message = f"{limits.num_pages - 1} pages of {limits.page_size} hold {limits.max_model_len} tokens"
    if wanted is not None:
        raise InsufficientMemoryError(
            f"{message}, fewer than max_model_len={wanted}; raise num_pages or lower "
            'max_model_len, which "auto" makes as long as the pages allow'
        )
    logger.info("%s: the context is that long, not the model's %d", message, context)


def _context(wanted: int | Literal["auto"] | None, model: ModelConfig) -> int:
    longest = model.context_length
    if wanted is None or wanted == "auto":
        return longest
    if wanted > longest:
        raise ConfigError(
            f"max_model_len={wanted} exceeds the {longest} positions that the model was made for; "
            f"lower it to {longest} or leave it out"
        )
    return wanted
