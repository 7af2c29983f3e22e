"""The experts as two grouped products: each expert's rows alone, and the weights of experts that have some.

The first product gathers the tokens of an expert and applies the gate, and the second multiplies with the
weights of the router. XLA sums over the experts of a token, in their order.
"""

import functools

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.gating import ExpertActivation
from pallas_kernels.experts.contract import ExpertStacks
from pallas_kernels.grouped_matmul import group_rows, grouped_matmul


def experts(
    x: Array,
    weights: Array,
    expert_ids: Array,
    stacks: ExpertStacks,
    *,
    layer: int | Array,
    activation: ExpertActivation,
    residual: Array | None,
    block_rows: int,
    interpret: bool,
) -> Array:
    """See `pallas_kernels.experts.experts`."""
    groups = group_rows(
        expert_ids.reshape(-1),
        stacks.num_experts,
        block_rows=block_rows,
        implementation="triton",
        interpret=interpret,
    )
    product = functools.partial(
        grouped_matmul, groups=groups, layer=layer, implementation="triton", interpret=interpret
    )
    inner = product(x, stacks.gate_up, bias=stacks.gate_up_bias, gate=activation)
    y = product(inner, stacks.down, bias=stacks.down_bias, row_weights=weights.reshape(-1))
    is_expert = (expert_ids >= 0) & (expert_ids < stacks.num_experts)
    # A row of no expert was never written.
    of_token = jnp.where(is_expert[:, :, None], y.reshape(*expert_ids.shape, -1), 0)
    total = of_token.astype(jnp.float32).sum(1)
    return (total if residual is None else residual.astype(jnp.float32) + total).astype(x.dtype)
