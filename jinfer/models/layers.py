"""The parts that decoders are made of, as Flax NNX modules.

A module holds one kind of weight for all layers, stacked as [num_layers, ...], and is called with a layer's index, an
int32 scalar that is constant once compiled: a step has few arguments that way, and XLA reads a static slice of the
stack in place. Parameters are declared by shape
alone (`jax.ShapeDtypeStruct`); `Model` fills in the arrays when a step is traced.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from jinfer.models.rope import Angles
from jinfer.models.token_batch import TokenBatch
from pallas_kernels import Implementation, paged_attention
from pallas_kernels.rms_norm import rms_norm
from pallas_kernels.rope_cache_write import rope_cache_write

LayerIndex = Int32[Array, ""] | int


class LayerPlace(NamedTuple):
    """Which layer it is, and what differs between layers besides the weights."""

    layer: LayerIndex
    sliding_window: int | None


class Kernel(nnx.Param):
    """A matrix, or a stack of them."""


class Bias(nnx.Param):
    """Added to a projection."""


class Scale(nnx.Param):
    """The weight of a normalization."""


def full_precision(dtype: jnp.dtype) -> jax.lax.Precision | None:
    """float32 matmuls in full float32, which a GPU otherwise rounds to TF32."""
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


class Linear(nnx.Module):
    """x @ kernel[layer] (+ bias[layer]) for each of `num_layers` layers."""

    def __init__(self, num_layers: int, in_features: int, out_features: int, dtype: jnp.dtype, *, bias: bool) -> None:
        self.kernel = Kernel(jax.ShapeDtypeStruct((num_layers, in_features, out_features), dtype))
        self.bias = Bias(jax.ShapeDtypeStruct((num_layers, out_features), dtype)) if bias else None

    def __call__(self, x: Float[Array, "tokens in"], layer: LayerIndex) -> Float[Array, "tokens out"]:
        y = jnp.matmul(x, self.kernel[layer], precision=full_precision(x.dtype))
        return y if self.bias is None else y + self.bias[layer]


class RMSNorm(nnx.Module):
    """RMSNorm over the last axis with scale[layer], for each of `num_layers` layers.

    XLA fuses the norm with what is around it. With the Pallas kernel, whose result goes through memory, a decode step
    of Qwen3-0.6B on an H200 took 4.29 ms in place of 3.98 (64 rows), and of 8B the same (benchmarks/results).
    """

    def __init__(self, num_layers: int, features: int, epsilon: float, dtype: jnp.dtype) -> None:
        self.scale = Scale(jax.ShapeDtypeStruct((num_layers, features), dtype))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch features"], layer: LayerIndex) -> Float[Array, "*batch features"]:
        return rms_norm(x, self.scale[layer], epsilon=self.epsilon, implementation="reference")


class Embedding(nnx.Module):
    """Token ids to vectors and, where the output head is tied to it, vectors to logits."""

    def __init__(self, vocab_size: int, features: int, dtype: jnp.dtype) -> None:
        self.kernel = Kernel(jax.ShapeDtypeStruct((vocab_size, features), dtype))

    def __call__(self, token_ids: Int32[Array, " tokens"]) -> Float[Array, "tokens features"]:
        return self.kernel[token_ids]

    def logits(self, x: Float[Array, "rows features"]) -> Float[Array, "rows vocab"]:
        """x @ kernel.T, accumulated and returned in float32."""
        return jnp.einsum(
            "rf,vf->rv", x, self.kernel[...], precision=full_precision(x.dtype), preferred_element_type=jnp.float32
        )


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)), with gate and up in one matrix (Shazeer, "GLU Variants", 2020)."""

    def __init__(self, num_layers: int, features: int, hidden: int, dtype: jnp.dtype, *, bias: bool) -> None:
        self.gate_up = Linear(num_layers, features, 2 * hidden, dtype, bias=bias)
        self.down = Linear(num_layers, hidden, features, dtype, bias=bias)

    def __call__(self, x: Float[Array, "tokens features"], layer: LayerIndex) -> Float[Array, "tokens features"]:
        gate, up = jnp.split(self.gate_up(x, layer), 2, axis=-1)
        return self.down(jax.nn.silu(gate) * up, layer)


class Attention(nnx.Module):
    """Grouped-query attention over the paged cache, with rotary positions.

    With `normalized_heads`, queries and keys get an RMSNorm, each head by itself, before they are rotated.
    """

    def __init__(
        self, config, dtype: jnp.dtype, implementation: Implementation, *, normalized_heads: bool = False
    ) -> None:
        layers, head_dim = config.num_layers, config.head_dim
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, head_dim
        self.implementation = implementation
        num_outputs = (self.num_heads + 2 * self.num_kv_heads) * head_dim
        self.qkv = Linear(layers, config.hidden_size, num_outputs, dtype, bias=config.qkv_bias)
        self.output = Linear(layers, self.num_heads * head_dim, config.hidden_size, dtype, bias=config.output_bias)
        epsilon = config.rms_norm_eps
        self.q_norm = RMSNorm(layers, head_dim, epsilon, dtype) if normalized_heads else None
        self.k_norm = RMSNorm(layers, head_dim, epsilon, dtype) if normalized_heads else None

    def __call__(
        self, x: Float[Array, "tokens features"], angles: Angles, kv_layer: Array, tokens: TokenBatch, place: LayerPlace
    ) -> tuple[Float[Array, "tokens features"], Array]:
        heads = self.qkv(x, place.layer).reshape(x.shape[0], -1, self.head_dim)
        q, kv_layer = rope_cache_write(
            heads,
            kv_layer,
            *angles,
            tokens.page_ids,
            tokens.page_offsets,
            **self._head_norms(place.layer),
            implementation=self.implementation,
        )
        attended = self._attend(q, kv_layer, tokens, place.sliding_window)
        return self.output(attended.reshape(x.shape[0], -1), place.layer), kv_layer

    def _head_norms(self, layer: LayerIndex) -> dict[str, Any]:
        if self.q_norm is None or self.k_norm is None:
            return {}
        return {
            "q_scale": self.q_norm.scale[layer],
            "k_scale": self.k_norm.scale[layer],
            "epsilon": self.q_norm.epsilon,
        }

    def _attend(self, q: Array, kv_layer: Array, tokens: TokenBatch, window: int | None) -> Array:
        options = paged_attention.AttentionOptions(sliding_window=window)
        cache = kv_layer, tokens.page_table
        if tokens.query_starts is None:
            return paged_attention.decode(
                q, *cache, tokens.lengths, options=options, implementation=self.implementation
            )
        return paged_attention.extend(
            q,
            *cache,
            tokens.query_starts,
            tokens.lengths,
            num_decode_rows=tokens.num_decode_rows,
            options=options,
            implementation=self.implementation,
        )
