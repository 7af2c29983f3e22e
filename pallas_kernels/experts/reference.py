"""The experts in plain jax.numpy and float32, each on every token."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array

from pallas_kernels.core.gating import ClampedSwiglu, ExpertActivation
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
    wide = x.astype(jnp.float32)
    gate_up, down = _floats(stacks.gate_up, layer), _floats(stacks.down, layer)

    def add(expert, total):
        y = jnp.matmul(wide, gate_up[expert], precision=Precision.HIGHEST)
        if stacks.gate_up_bias is not None:
            y = y + stacks.gate_up_bias[layer, expert].astype(jnp.float32)
        y = jnp.matmul(_gated(y, activation), down[expert], precision=Precision.HIGHEST)
        if stacks.down_bias is not None:
            y = y + stacks.down_bias[layer, expert].astype(jnp.float32)
        is_mine = expert_ids == expert
        weight = jnp.where(is_mine, weights.astype(jnp.float32), 0).sum(-1, keepdims=True)
        return total + jnp.where(is_mine.any(-1, keepdims=True), weight * y, 0)

    total = jnp.zeros(x.shape, jnp.float32) if residual is None else residual.astype(jnp.float32)
    return jax.lax.fori_loop(0, stacks.num_experts, add, total).astype(x.dtype)


def _floats(w: Weight, layer: int | Array) -> Array:
    """[experts, in, out] of a layer."""
    of_layer = jax.tree.map(lambda leaf: leaf[layer], w)
    if isinstance(of_layer, QuantizedWeight):
        return of_layer.dequantized(jnp.float32)
    return of_layer.astype(jnp.float32)


def _gated(y: Array, activation: ExpertActivation) -> Array:
    gate, up = jnp.split(y, 2, axis=-1)
    if isinstance(activation, ClampedSwiglu):
        gate = jnp.minimum(gate, activation.limit)
        up = jnp.clip(up, -activation.limit, activation.limit)
        return gate * jax.nn.sigmoid(activation.alpha * gate) * (up + 1)
    if activation == "silu":
        return jax.nn.silu(gate) * up
    return jax.nn.gelu(gate, approximate=True) * up
