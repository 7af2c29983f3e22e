"""The arguments of experts, and what contradicts what."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.core.gating import ExpertActivation
from pallas_kernels.core.stacks import check_activation, check_stack_types
from pallas_kernels.core.weights import Weight


class ExpertStacks(NamedTuple):
    """The weights of the experts of all layers, and their biases where there are some."""

    gate_up: Weight
    down: Weight
    gate_up_bias: Array | None
    down_bias: Array | None

    @property
    def num_layers(self) -> int:
        return self.gate_up.shape[0]

    @property
    def num_experts(self) -> int:
        return self.gate_up.shape[1]

    @property
    def num_features(self) -> int:
        return self.gate_up.shape[2]

    @property
    def num_inner(self) -> int:
        """The width between the two products of an expert."""
        return self.down.shape[2]


def check_arguments(
    x: Array,
    weights: Array,
    expert_ids: Array,
    stacks: ExpertStacks,
    *,
    layer: int | Array,
    activation: ExpertActivation,
    residual: Array | None,
) -> None:
    """Raises ValueError for what contradicts each other, and UnsupportedError for types that nothing
    serves."""
    _check_stacks(stacks, layer)
    if x.ndim != 2 or 0 in x.shape or x.shape[1] != stacks.num_features:
        raise ValueError(
            f"x has shape {x.shape}; with gate_up of {stacks.gate_up.shape} it must be "
            f"[tokens, {stacks.num_features}]"
        )
    if weights.ndim != 2 or weights.shape != expert_ids.shape or weights.shape[0] != x.shape[0]:
        raise ValueError(
            f"weights have shape {weights.shape} and expert_ids {expert_ids.shape}; both must be "
            f"[{x.shape[0]}, experts of a token]"
        )
    if not jnp.issubdtype(expert_ids.dtype, jnp.integer):
        raise ValueError(f"expert_ids are {expert_ids.dtype}; they must be integers")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual has shape {residual.shape} and x {x.shape}; they must be equal")
    check_activation(activation)
    check_stack_types(x, {"gate_up": stacks.gate_up, "down": stacks.down})


def _check_stacks(stacks: ExpertStacks, layer: int | Array) -> None:
    gate_up, down = stacks.gate_up.shape, stacks.down.shape
    wanted = None
    if len(gate_up) == 4:
        num_layers, num_experts, num_features, columns = gate_up
        wanted = (num_layers, num_experts, columns // 2, num_features)
    if wanted is None or 0 in gate_up or gate_up[3] % 2 or down != wanted:
        raise ValueError(
            f"gate_up has shape {gate_up} and down {down}; pass [layers, experts, features, 2 * inner] and "
            "[layers, experts, inner, features]"
        )
    if isinstance(layer, int | np.integer) and not 0 <= layer < gate_up[0]:
        raise ValueError(f"layer={layer} is outside of a stack of {gate_up[0]} layers, which count from 0")
    for name, bias, matrix in (
        ("gate_up_bias", stacks.gate_up_bias, gate_up),
        ("down_bias", stacks.down_bias, down),
    ):
        if bias is not None and bias.shape != (*matrix[:2], matrix[3]):
            raise ValueError(
                f"{name} has shape {bias.shape}; for weights of {matrix} it must be "
                f"{(*matrix[:2], matrix[3])}"
            )
