"""The entries of a config.json about experts that families spell alike."""

from collections.abc import Sequence
from dataclasses import replace

from jinfer.entries import Entries
from jinfer.errors import UnsupportedModelError
from jinfer.models.config import ExpertsConfig, MLPConfig, ModelConfig
from jinfer.models.config_entries import read_num_layers

SPELLINGS = "num_local_experts", "num_experts"
"""The two names of one entry: transformers 5 writes either, by the family."""


def read_num_experts(entries: Entries, default: int) -> int:
    """The experts of a layer, under either name; 0 is none."""
    found = [entries.integer(name, None, at_least=0) for name in SPELLINGS]
    given = {number for number in found if number is not None}
    if len(given) > 1:
        raise UnsupportedModelError(
            f"config.json has {SPELLINGS[0]} {found[0]} and {SPELLINGS[1]} {found[1]}; they are two names of "
            "one entry: remove the one that does not hold"
        )
    return given.pop() if given else default


def read_top_k(entries: Entries, num_experts: int, default: int) -> int:
    """`num_experts_per_tok`, of which there are so many."""
    top_k = entries.integer("num_experts_per_tok", default)
    if top_k > num_experts:
        entries.refuse(
            "num_experts_per_tok", f"a layer has {num_experts} experts, and no token has more than these"
        )
    return top_k


def read_sparse_layers(entries: Entries, num_experts: int, default_num_layers: int) -> tuple[bool, ...]:
    """True for each layer with experts, as Qwen writes it: every `decoder_sparse_step`-th that
    `mlp_only_layers` does not name."""
    num_layers = read_num_layers(entries, default_num_layers)
    step = entries.integer("decoder_sparse_step", 1)
    dense = entries.integers("mlp_only_layers", at_least=0, at_most=num_layers - 1) or ()
    return tuple(
        num_experts > 0 and layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers)
    )


def dense_mlp(config: ModelConfig) -> MLPConfig:
    """The MLP of a decoder that has no experts yet."""
    mlp = config.layers[0].mlp
    assert isinstance(mlp, MLPConfig)
    return mlp


def with_experts(config: ModelConfig, experts: ExpertsConfig, are_sparse: Sequence[bool]) -> ModelConfig:
    """The decoder with experts in the place of the MLPs of some layers."""
    layers = tuple(
        replace(layer, mlp=experts) if is_sparse else layer
        for layer, is_sparse in zip(config.layers, are_sparse, strict=True)
    )
    return replace(config, layers=layers)
