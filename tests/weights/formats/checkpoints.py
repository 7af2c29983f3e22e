"""Tiny checkpoints whose linear layers are quantized."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import CONFIG, random_tensors, write_checkpoint
from tests.weights.formats.packers import Module

PLAIN = ("norm.weight", "layernorm.weight", "embed_tokens.weight")
HEAD = "lm_head"
SMALL = {**CONFIG, "num_hidden_layers": 1}
SIZES = {
    32: {"hidden_size": 96, "head_dim": 24, "intermediate_size": 160},
    64: {"hidden_size": 64, "head_dim": 16, "intermediate_size": 192},
    128: {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256},
    -1: {"hidden_size": 40, "head_dim": 10, "num_key_value_heads": 4, "intermediate_size": 56},
}
"""Sizes that a group size divides, by group size."""
UNEVEN = {"hidden_size": 40, "head_dim": 10, "intermediate_size": 56}
"""Sizes that words of eight divide, and groups do not; keys and values have 20 outputs."""
ODD = {"hidden_size": 36, "head_dim": 10, "intermediate_size": 51}
"""Sizes that no words divide."""

Pack = Callable[[np.random.Generator, int, int], Module]


@dataclass
class Checkpoint:
    """A directory, all that is stored there, and the weights that they stand for by Hugging Face's names."""

    directory: Path
    tensors: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    config: dict[str, Any]

    @property
    def num_layers(self) -> int:
        return self.config["num_hidden_layers"]


def write_quantized(
    directory: Path,
    pack: Pack,
    quantization: Mapping[str, Any] | None,
    *,
    sizes: Mapping[str, Any] = SIZES[64],
    leave: Collection[str] = (HEAD,),
    changes: Mapping[str, np.ndarray | None] | None = None,
    tokenizer: bool = False,
    **config: Any,
) -> Checkpoint:
    """A checkpoint with every module packed but those that `leave` has a part of the name of. `changes` are
    other tensors, None for one that is taken out."""
    full = {**SMALL, **sizes, **config}
    if quantization is not None:
        full["quantization_config"] = quantization
    rng = np.random.default_rng(7)
    stored, weights = {}, random_tensors(full)
    for name, plain in weights.items():
        module = name.removesuffix(".weight")
        if name.endswith(PLAIN) or any(part in module for part in leave):
            stored[name] = plain
            continue
        made = pack(rng, *plain.shape)
        weights[name] = made.weight
        stored |= {f"{module}.{leaf}": tensor for leaf, tensor in made.tensors.items()}
    for name, tensor in (changes or {}).items():
        stored.pop(name, None)
        if tensor is not None:
            stored[name] = tensor
    write_checkpoint(directory, config=full, tensors=stored, tokenizer=tokenizer)
    return Checkpoint(directory, stored, weights, full)
