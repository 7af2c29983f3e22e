"""Attention over the paged cache, as a Flax NNX module."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jinfer.models.layers import LayerIndex, Linear, RMSNorm
from jinfer.models.rope import Angles
from jinfer.models.token_batch import TokenBatch
from pallas_kernels import Implementation, paged_attention
from pallas_kernels.rope_cache_write import rope_cache_write


class LayerPlace(NamedTuple):
    """Which layer it is, and what differs between layers besides the weights."""

    layer: LayerIndex
    sliding_window: int | None


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
        self.qkv = Linear(layers, config.hidden_size, num_outputs, dtype, implementation, bias=config.qkv_bias)
        self.output = Linear(
            layers, self.num_heads * head_dim, config.hidden_size, dtype, implementation, bias=config.output_bias
        )
        epsilon = config.rms_norm_eps
        self.q_norm = RMSNorm(layers, head_dim, epsilon, dtype) if normalized_heads else None
        self.k_norm = RMSNorm(layers, head_dim, epsilon, dtype) if normalized_heads else None

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        *,
        angles: Angles,
        kv_layer: Array,
        tokens: TokenBatch,
        place: LayerPlace,
        norm: RMSNorm,
        residual: Float[Array, "tokens_or_rows features"],
    ) -> tuple[Float[Array, "tokens_or_rows features"], Array]:
        """residual + attention(norm(x)), of `tokens.newest` where that is given; and the layer's cache with the keys
        and values of all tokens in it."""
        heads = self.qkv(x, place.layer, norm=norm).reshape(x.shape[0], -1, self.head_dim)
        attend = self._decode if tokens.query_starts is None else self._extend
        attended, kv_layer = attend(heads, kv_layer, angles, tokens, place)
        return self.output(attended.reshape(len(residual), -1), place.layer, residual=residual), kv_layer

    def _decode(
        self, heads: Array, kv_layer: Array, angles: Angles, tokens: TokenBatch, place: LayerPlace
    ) -> tuple[Array, Array]:
        """One token per row. Its place in the cache is that of its row's last position."""
        return paged_attention.append_and_decode(
            heads,
            kv_layer,
            tokens.page_table,
            tokens.lengths,
            *angles,
            **self._head_norms(place.layer),
            options=paged_attention.AttentionOptions(sliding_window=place.sliding_window),
            implementation=self.implementation,
        )

    def _extend(
        self, heads: Array, kv_layer: Array, angles: Angles, tokens: TokenBatch, place: LayerPlace
    ) -> tuple[Array, Array]:
        """Many tokens of some rows, which see each other: all are in the cache before any of them attends.

        Of the newest alone, each is the last of its row, and sees what a decoded token sees.
        """
        assert tokens.query_starts is not None
        q, kv_layer = rope_cache_write(
            heads,
            kv_layer,
            *angles,
            tokens.page_ids,
            tokens.page_offsets,
            **self._head_norms(place.layer),
            implementation=self.implementation,
        )
        options = paged_attention.AttentionOptions(sliding_window=place.sliding_window)
        attend: dict[str, Any] = {"options": options, "implementation": self.implementation}
        if tokens.newest is not None:
            q = q[tokens.newest]
            return paged_attention.decode(q, kv_layer, tokens.page_table, tokens.lengths, **attend), kv_layer
        attended = paged_attention.extend(
            q, kv_layer, tokens.page_table, tokens.query_starts, tokens.lengths,
            num_decode_rows=tokens.num_decode_rows, **attend,
        )  # fmt: skip
        return attended, kv_layer

    def _head_norms(self, layer: LayerIndex) -> dict[str, Any]:
        if self.q_norm is None or self.k_norm is None:
            return {}
        return {
            "q_scale": self.q_norm.scale[...],
            "k_scale": self.k_norm.scale[...],
            "epsilon": self.q_norm.epsilon,
            "layer": layer,
        }
