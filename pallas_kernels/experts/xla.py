"""Every expert on every token, as two products by XLA: what experts a token has not are multiplied by zero.

The first has x once for each expert, and the second sums over experts and inner features at once. It does
experts / k times the work, and reads all weights, each once: good where nearly all experts have tokens.
Weights are read where they lie in the stack; quantized ones are written as floats first.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.gating import ExpertActivation, gated
from pallas_kernels.core.precision import full_precision
from pallas_kernels.core.weights import QuantizedWeight, Weight
from pallas_kernels.experts.contract import ExpertStacks


def experts(
    x: Array,
    weights: Array,
    expert_ids: Array,
    stacks: ExpertStacks,
    *,
    layer: int | Array,
    activation: ExpertActivation,
    residual: Array | None,
) -> Array:
    """See `pallas_kernels.experts.experts`."""
    is_chosen = expert_ids[:, :, None] == jnp.arange(stacks.num_experts)
    of_expert = jnp.where(is_chosen, weights.astype(jnp.float32)[:, :, None], 0).sum(1)
    inner = _inner(x, stacks, layer, activation)
    weighed = jnp.where(is_chosen.any(1).T[:, :, None], inner * of_expert.T[:, :, None], 0).astype(x.dtype)
    y = jnp.matmul(
        weighed.swapaxes(0, 1).reshape(x.shape[0], -1),
        _matrices(stacks.down, layer, x.dtype).reshape(-1, x.shape[1]),
        precision=full_precision(x.dtype),
        preferred_element_type=jnp.float32,
    )
    if stacks.down_bias is not None:
        bias = stacks.down_bias[layer].astype(jnp.float32)
        y = y + jnp.matmul(of_expert, bias, precision=jax.lax.Precision.HIGHEST)
    return (y if residual is None else residual.astype(jnp.float32) + y).astype(x.dtype)


def _inner(x: Array, stacks: ExpertStacks, layer: int | Array, activation: ExpertActivation) -> Array:
    """The gated features of each expert [experts, tokens, inner], in float32."""
    # An x for each expert: without, XLA would copy the weights to [features, experts * 2 * inner].
    spread = jnp.broadcast_to(x, (stacks.num_experts, *x.shape))
    gate_up = _matrices(stacks.gate_up, layer, x.dtype)
    y = jnp.einsum("etd,edf->etf", spread, gate_up, precision=full_precision(x.dtype))
    y = y.astype(jnp.float32)
    if stacks.gate_up_bias is not None:
        y = y + stacks.gate_up_bias[layer].astype(jnp.float32)[:, None, :]
    gate, up = jnp.split(y, 2, axis=-1)
    return gated(gate, up, activation)


def _matrices(w: Weight, layer: int | Array, dtype: DTypeLike) -> Array:
    """[experts, in, out] of a layer."""
    of_layer = jax.tree.map(lambda leaf: leaf[layer], w)
    return of_layer.dequantized(dtype) if isinstance(of_layer, QuantizedWeight) else of_layer
