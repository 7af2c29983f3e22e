"""The entries of a config.json about experts, which DeepSeek's families spell alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jinfer.entries import Entries
from jinfer.models.config import ExpertsConfig, MLPConfig, ModelConfig
from jinfer.models.config_entries import REMEDY
from jinfer.models.expert_entries import dense_mlp, read_top_k, with_experts
from pallas_kernels.router import RouterOptions

PREDICTION_LAYERS = "num_nextn_predict_layers", "num_mtp_layers"
"""Two names of one entry."""


@dataclass(frozen=True)
class ExpertDefaults:
    """Values of entries that config.json lacks: the defaults of the family's configuration class in
    transformers 5. Without a `top_k` it must be there."""

    num_experts: int
    expert_size: int
    num_shared: int
    top_k: int | None = None
    scaling: float = 1.0
    num_groups: int = 1
    top_groups: int = 1


def with_deepseek_experts(
    config: ModelConfig,
    entries: Entries,
    defaults: ExpertDefaults,
    are_sparse: Sequence[bool],
    routing: RouterOptions,
) -> ModelConfig:
    """The decoder with experts, and with shared ones in one MLP of their own, in the place of the MLPs of
    some layers. Of `routing` the method is taken, and its numbers are read.

    Raises UnsupportedModelError for a malformed or unsupported entry.
    """
    if not any(are_sparse):
        return config
    num_experts = entries.integer("n_routed_experts", defaults.num_experts)
    if defaults.top_k is None:
        entries.require("num_experts_per_tok")
    routing = replace(
        routing,
        top_k=read_top_k(entries, num_experts, defaults.top_k or 1),
        scaling=entries.number("routed_scaling_factor", defaults.scaling, above=0),
    )
    mlp = dense_mlp(config)
    size = entries.integer("moe_intermediate_size", defaults.expert_size)
    num_shared = entries.integer("n_shared_experts", defaults.num_shared)
    experts = ExpertsConfig(
        num_experts=num_experts,
        intermediate_size=size,
        routing=_with_groups(routing, entries, num_experts, defaults),
        activation=mlp.activation,
        has_correction_bias=routing.scores == "sigmoid",
        shared=MLPConfig(num_shared * size, mlp.bias, mlp.activation),
    )
    return with_experts(config, experts, are_sparse)


def _with_groups(
    routing: RouterOptions, entries: Entries, num_experts: int, defaults: ExpertDefaults
) -> RouterOptions:
    """The routing by groups, of which each has as many experts."""
    num_groups = entries.integer("n_group", defaults.num_groups)
    top_groups = entries.integer("topk_group", defaults.top_groups)
    if num_experts % num_groups:
        entries.refuse("n_group", f"it must divide the {num_experts} experts of a layer")
    if not 1 <= top_groups <= num_groups:
        entries.refuse("topk_group", f"a token has experts of some of {num_groups} groups")
    if top_groups * (num_experts // num_groups) < routing.top_k:
        entries.refuse("topk_group", f"so many groups have fewer than the {routing.top_k} experts of a token")
    return replace(routing, num_groups=num_groups, top_groups=top_groups)


def check_method(entries: Entries, expected: dict[str, tuple[object, ...]]) -> None:
    """Raises UnsupportedModelError for an entry that is none of its values, which are all that the family's
    module in transformers computes."""
    for name, values in expected.items():
        if entries.has(name) and entries.raw[name] not in values:
            entries.refuse(
                name, f"in this family jinfer implements {' and '.join(map(repr, values))}; {REMEDY}"
            )


def read_leading_dense(entries: Entries, num_layers: int, default: int) -> tuple[bool, ...]:
    """True for each layer with experts: all but the first `first_k_dense_replace`."""
    num_dense = entries.integer("first_k_dense_replace", default, at_least=0)
    return tuple(layer >= num_dense for layer in range(num_layers))


def with_prediction_layers(config: ModelConfig, entries: Entries) -> ModelConfig:
    """The decoder of a checkpoint that has layers for the prediction of several tokens behind its own: one
    where no entry says how many."""
    given = [entries.integer(name, None, at_least=0) for name in PREDICTION_LAYERS]
    numbers = [number for number in given if number is not None]
    return replace(config, num_prediction_layers=max(numbers, default=1))
