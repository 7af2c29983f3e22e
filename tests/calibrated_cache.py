"""A tiny checkpoint of plain weights whose KV cache was calibrated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import random_tensors, write_checkpoint
from tests.tiny_model import CONFIG

SCHEME: Mapping[str, Any] = {
    "num_bits": 8,
    "type": "float",
    "strategy": "tensor",
    "symmetric": True,
    "dynamic": False,
}
LLAMA: Mapping[str, Any] = {
    **CONFIG,
    "architectures": ["LlamaForCausalLM"],
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
}
K_SCALES = np.array([[0.02, 0.03], [0.05, 0.04]], np.float32)  # of layers and heads
V_SCALES = np.array([[0.01, 0.02], [0.03, 0.005]], np.float32)


def scale_tensors(shape: tuple[int, ...] = (2, 1, 1)) -> dict[str, np.ndarray]:
    """The scales of each layer, of its heads or, in a shape of one number, of the first head."""
    size = int(np.prod(shape))
    return {
        f"model.layers.{layer}.self_attn.{name}": scales[layer, :size].reshape(shape)
        for name, scales in (("k_scale", K_SCALES), ("v_scale", V_SCALES))
        for layer in range(len(scales))
    }


def write_calibrated(
    directory: Path,
    *,
    scheme: Mapping[str, Any] | None = SCHEME,
    scales: Mapping[str, np.ndarray | None] | None = None,
    tokenizer: bool = False,
) -> dict[str, np.ndarray]:
    """A directory of the tiny model with scales of heads; `scales` are others, None for one that is taken
    out. The weights that are written."""
    quantization = {"quant_method": "compressed-tensors", "config_groups": {}, "kv_cache_scheme": scheme}
    if scheme is None:
        quantization = {"quant_method": "fp8"}
    tensors = random_tensors(LLAMA)
    stored = {**scale_tensors(), **(scales or {})}
    config = {**LLAMA, "quantization_config": quantization}
    present = {name: scale for name, scale in stored.items() if scale is not None}
    write_checkpoint(directory, config=config, tensors={**tensors, **present}, tokenizer=tokenizer)
    return tensors
