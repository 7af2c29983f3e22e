"""Attention over the paged cache."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from jinfer.models.config import ModelConfig
from jinfer.models.layers import STATIC, LayerIndex, Linear, RMSNorm
from jinfer.models.rope import Angles
from jinfer.models.token_batch import TokenBatch
from jinfer.weights.params import Params
from pallas_kernels import Implementation, paged_attention
from pallas_kernels.paged_attention import KVPages
from pallas_kernels.rope_cache_write import rope_cache_write


class LayerPlace(NamedTuple):
    """Which layer it is, and what differs between layers besides the weights."""

    layer: LayerIndex
    sliding_window: int | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Attention:
    """Grouped-query attention over the paged cache, with rotary positions.

    With `q_norm` and `k_norm`, queries and keys get an RMSNorm, each head by itself, before they are rotated.
    """

    qkv: Linear
    output: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    head_dim: int = field(metadata=STATIC)
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, config: ModelConfig, implementation: Implementation) -> "Attention":
        """Attention of {"qkv": ..., "output": ...}, with or without {"q_norm": ..., "k_norm": ...}."""
        norms = {
            name: RMSNorm(params[name]["scale"], config.rms_norm_eps) if name in params else None
            for name in ("q_norm", "k_norm")
        }
        return cls(
            Linear.of(params["qkv"], implementation),
            Linear.of(params["output"], implementation),
            **norms,
            head_dim=config.head_dim,
            implementation=implementation,
        )

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        angles: Angles,
        kv_pages: KVPages,
        tokens: TokenBatch,
        place: LayerPlace,
        *,
        norm: RMSNorm,
        residual: Float[Array, "tokens_or_rows features"],
    ) -> tuple[Float[Array, "tokens_or_rows features"], KVPages]:
        """residual + attention(norm(x)), of `tokens.newest` where that is given; and the layer's cache with the keys
        and values of all tokens in it."""
        heads = self.qkv(x, place.layer, norm=norm).reshape(x.shape[0], -1, self.head_dim)
        attend = self._decode if tokens.query_starts is None else self._extend
        attended, kv_pages = attend(heads, kv_pages, angles, tokens, place)
        return self.output(attended.reshape(len(residual), -1), place.layer, residual=residual), kv_pages

    def _decode(
        self, heads: Array, kv_pages: KVPages, angles: Angles, tokens: TokenBatch, place: LayerPlace
    ) -> tuple[Array, KVPages]:
        """One token per row. Its place in the cache is that of its row's last position."""
        return paged_attention.append_and_decode(
            heads,
            kv_pages,
            tokens.page_table,
            tokens.lengths,
            *angles,
            **self._head_norms(place.layer),
            options=paged_attention.AttentionOptions(sliding_window=place.sliding_window),
            implementation=self.implementation,
        )

    def _extend(
        self, heads: Array, kv_pages: KVPages, angles: Angles, tokens: TokenBatch, place: LayerPlace
    ) -> tuple[Array, KVPages]:
        """Many tokens of some rows, which see each other: all are in the cache before any of them attends.

        Of the newest alone, each is the last of its row, and sees what a decoded token sees.
        """
        assert tokens.query_starts is not None
        q, kv_pages = rope_cache_write(
            heads,
            kv_pages,
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
            return paged_attention.decode(q, kv_pages, tokens.page_table, tokens.lengths, **attend), kv_pages
        attended = paged_attention.extend(
            q, kv_pages, tokens.page_table, tokens.query_starts, tokens.lengths,
            num_decode_rows=tokens.num_decode_rows, **attend,
        )  # fmt: skip
        return attended, kv_pages

    def _head_norms(self, layer: LayerIndex) -> dict[str, Any]:
        if self.q_norm is None or self.k_norm is None:
            return {}
        return {
            "q_scale": self.q_norm.scale,
            "k_scale": self.k_norm.scale,
            "epsilon": self.q_norm.epsilon,
            "layer": layer,
        }
