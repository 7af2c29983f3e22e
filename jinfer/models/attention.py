"""Attention over the paged cache, and the tokens of a step as a model sees them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from jinfer.models.config import AttentionConfig, QueryGrowth
from jinfer.models.layers import STATIC, LayerIndex, Linear, RMSNorm
from jinfer.models.rope import Angles
from jinfer.models.value_heads import turned_queries, with_values
from jinfer.weights.params import Params
from pallas_kernels import Implementation, paged_attention
from pallas_kernels.latent_attention import LatentPages
from pallas_kernels.paged_attention import AnyKVPages
from pallas_kernels.rope_cache_write import rope_cache_write

NULL_PAGE = 0  # padding writes to this page

LayerPages: TypeAlias = AnyKVPages | LatentPages
"""The pages of one layer, of the kind that its attention has."""


class TokenBatch(NamedTuple):
    """Flattened tokens of several rows (sequences), and where their keys and values live.

    Each token writes its keys and values to (page_ids, page_offsets) before it attends. `page_table` and
    `lengths` give the rows' positions, the new tokens included: the same page and offset, where a row has one
    token. `query_starts` divides the tokens among the rows, of which the first `num_decode_rows` have one
    each; None means one token per row. `prompt_lengths`, of each token's request, are given where the model's
    rotary embedding depends on them. `logits_indices`, where they are given, are the last token of each row,
    and no other's last hidden state is asked for. Padding tokens write to the null page, and padding rows
    have length 0.
    """

    token_ids: Int32[Array, " tokens"]
    positions: Int32[Array, " tokens"]
    page_ids: Int32[Array, " tokens"]
    page_offsets: Int32[Array, " tokens"]
    page_table: Int32[Array, "rows pages_per_sequence"]
    lengths: Int32[Array, " rows"]
    query_starts: Int32[Array, " rows_plus_1"] | None = None
    num_decode_rows: Int32[Array, ""] | None = None
    prompt_lengths: Int32[Array, " tokens"] | None = None
    logits_indices: Int32[Array, " rows"] | None = None

    def last_of_rows(self) -> "TokenBatch":
        """The tokens at `logits_indices`, one of each row, whose keys and values are in the cache."""
        kept = self.logits_indices
        of_tokens = "token_ids", "positions", "page_ids", "page_offsets", "prompt_lengths"
        values = {name: getattr(self, name) for name in of_tokens}
        changed: dict[str, Any] = {
            name: None if value is None else value[kept] for name, value in values.items()
        }
        return self._replace(**changed, query_starts=None, num_decode_rows=None, logits_indices=None)

    @property
    def is_padding(self) -> Bool[Array, " tokens_or_rows"]:
        """True of padding, among the tokens whose hidden states are asked for."""
        page_ids = self.page_ids if self.logits_indices is None else self.page_ids[self.logits_indices]
        return page_ids == NULL_PAGE

    @property
    def row_ids(self) -> Int32[Array, " tokens"]:
        """The row of each token; of padding, the last one."""
        if self.query_starts is None:
            return jnp.arange(len(self.token_ids), dtype=jnp.int32)
        return rows_of_tokens(self.query_starts, len(self.token_ids))


def rows_of_tokens(query_starts: Int32[Array, " rows_plus_1"], num_tokens: int) -> Int32[Array, " tokens"]:
    """The row of each token, of which those of row i begin at query_starts[i]. The last row has padding."""
    token = jnp.arange(num_tokens, dtype=jnp.int32)
    row = jnp.sum(token[:, None] >= query_starts[None, 1:], axis=1, dtype=jnp.int32)
    return jnp.minimum(row, len(query_starts) - 2)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Attention:
    """Grouped-query attention over the paged cache, with rotary positions.

    With `q_norm` and `k_norm`, queries and keys get an RMSNorm, each head by itself, before they are rotated;
    with `q_projection_norm` and `k_projection_norm`, one of all query heads together and one of all key
    heads. With `kv_scales`, of keys and then of values, the cache has these in place of a scale for each
    vector.
    """

    qkv: Linear
    output: Linear
    q_norm: RMSNorm | None
    k_norm: RMSNorm | None
    sinks: Float[Array, "layers num_heads"] | None
    kv_scales: Float32[Array, "layers twice_num_kv_heads"] | None
    q_projection_norm: RMSNorm | None
    k_projection_norm: RMSNorm | None
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(
        cls, params: Params, epsilon: float, implementation: Implementation, norm_offset: float = 0.0
    ) -> "Attention":
        """Attention of {"qkv": ..., "output": ...}, with or without norms of queries and keys, "sinks" and
        "kv_scales"."""
        return cls(
            qkv=Linear.of(params["qkv"], implementation),
            output=Linear.of(params["output"], implementation),
            q_norm=RMSNorm.of(params.get("q_norm"), epsilon, norm_offset),
            k_norm=RMSNorm.of(params.get("k_norm"), epsilon, norm_offset),
            sinks=params.get("sinks"),
            kv_scales=params.get("kv_scales"),
            q_projection_norm=RMSNorm.of(params.get("q_projection_norm"), epsilon, norm_offset),
            k_projection_norm=RMSNorm.of(params.get("k_projection_norm"), epsilon, norm_offset),
            implementation=implementation,
        )

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        config: AttentionConfig,
        angles: Angles,
        kv_pages: AnyKVPages,
        tokens: TokenBatch,
        norm: RMSNorm | None,
        post_norm: RMSNorm | None,
        residual: Float[Array, "tokens_or_rows features"],
        residual_scale: float = 1.0,
    ) -> tuple[Float[Array, "tokens_or_rows features"], AnyKVPages]:
        """residual + residual_scale * post_norm(attention(norm(x))), at `tokens.logits_indices` where they
        are given; and the layer's pages with the keys and values of all tokens in them."""
        projected = self._with_projection_norms(self.qkv(x, layer, norm=norm), layer)
        heads = projected.reshape(x.shape[0], -1, config.head_dim)
        if config.query_growth is not None:
            heads = _with_growth(heads, config.num_heads, config.query_growth, tokens.positions)
        if config.kv_layer is not None:
            attended = self._attend_to_another(heads, layer, config, angles, kv_pages, tokens)
        else:
            heads = with_values(heads, config, self.k_norm.epsilon if self.k_norm else 0.0)
            attend = self._decode if tokens.query_starts is None else self._extend
            attended, kv_pages = attend(heads, layer, config, angles, kv_pages, tokens)
        attended = attended.reshape(len(residual), -1)
        added = self.output(
            attended, layer, post_norm=post_norm, residual=residual, residual_scale=residual_scale
        )
        return added, kv_pages

    def _with_projection_norms(self, qkv: Array, layer: LayerIndex) -> Array:
        """Queries and keys, each normalized as a whole, beside the values as they are. XLA computes it: the
        slices and the joined result are then no arrays of their own."""
        if self.q_projection_norm is None or self.k_projection_norm is None:
            return qkv
        num_q, num_k = (norm.scale.shape[-1] for norm in (self.q_projection_norm, self.k_projection_norm))
        q, k, v = jnp.split(qkv, [num_q, num_q + num_k], axis=-1)
        q, k = self.q_projection_norm(q, layer, "xla"), self.k_projection_norm(k, layer, "xla")
        return jnp.concatenate([q, k, v], axis=-1)

    def _decode(
        self,
        heads: Array,
        layer: LayerIndex,
        config: AttentionConfig,
        angles: Angles,
        kv_pages: AnyKVPages,
        tokens: TokenBatch,
    ) -> tuple[Array, AnyKVPages]:
        """One token per row, which is written to its row's last position."""
        return paged_attention.append_and_decode(
            heads,
            kv_pages,
            tokens.page_table,
            tokens.lengths,
            *angles,
            interleaved=config.has_interleaved_rope,
            **(self._scales(layer) | self._options(layer, config)),
        )

    def _extend(
        self,
        heads: Array,
        layer: LayerIndex,
        config: AttentionConfig,
        angles: Angles,
        kv_pages: AnyKVPages,
        tokens: TokenBatch,
    ) -> tuple[Array, AnyKVPages]:
        """Many tokens of some rows, which see each other: all are in the cache before any of them attends.

        At `logits_indices`, each is the last of its row, and sees what a decoded token sees.
        """
        assert tokens.query_starts is not None
        q, kv_pages = rope_cache_write(
            heads,
            kv_pages,
            *angles,
            tokens.page_ids,
            tokens.page_offsets,
            **self._scales(layer),
            interleaved=config.has_interleaved_rope,
            implementation=self.implementation,
        )
        return self._attend(q, layer, config, kv_pages, tokens), kv_pages

    def _attend_to_another(
        self,
        q: Array,
        layer: LayerIndex,
        config: AttentionConfig,
        angles: Angles,
        kv_pages: AnyKVPages,
        tokens: TokenBatch,
    ) -> Array:
        """Queries alone, over the pages of a layer that has written the tokens' keys and values."""
        assert not config.has_interleaved_rope, "pairs side by side are turned where keys are written"
        scale, epsilon = (None, 0.0) if self.q_norm is None else self.q_norm.operands
        q = turned_queries(q, None if scale is None else scale[layer], epsilon, angles)
        return self._attend(q, layer, config, kv_pages, tokens)

    def _attend(
        self, q: Array, layer: LayerIndex, config: AttentionConfig, kv_pages: AnyKVPages, tokens: TokenBatch
    ) -> Array:
        """Attention of queries whose keys and values are all in the cache."""
        options = self._options(layer, config)
        if tokens.logits_indices is not None:
            q = q[tokens.logits_indices]
        if tokens.logits_indices is not None or tokens.query_starts is None:
            return paged_attention.decode(q, kv_pages, tokens.page_table, tokens.lengths, **options)
        options["num_decode_rows"] = tokens.num_decode_rows
        rows = tokens.page_table, tokens.query_starts, tokens.lengths
        return paged_attention.extend(q, kv_pages, *rows, **options)

    def _scales(self, layer: LayerIndex) -> dict[str, Any]:
        """The scales of the norms and of the cache, where there are some, as who writes the cache takes
        them."""
        scales: dict[str, Any] = {}
        if self.q_norm is not None and self.k_norm is not None:
            norms = {"q_scale": self.q_norm.scale, "k_scale": self.k_norm.scale}
            scales |= {**norms, "epsilon": self.q_norm.epsilon}
        if self.kv_scales is not None:
            scales["kv_scales"] = self.kv_scales.reshape(len(self.kv_scales), 2, -1)
        return {**scales, "layer": layer} if scales else {}

    def _options(self, layer: LayerIndex, config: AttentionConfig) -> dict[str, Any]:
        return {
            "options": paged_attention.AttentionOptions(
                scale=config.scale, sliding_window=config.sliding_window, soft_cap=config.soft_cap
            ),
            "sinks": None if self.sinks is None else self.sinks[layer],
            "implementation": self.implementation,
        }


def _with_growth(
    heads: Float[Array, "tokens all_heads head_dim"],
    num_heads: int,
    growth: QueryGrowth,
    positions: Int32[Array, " tokens"],
) -> Float[Array, "tokens all_heads head_dim"]:
    """The heads with queries that have grown by their positions. The factor is rounded to their dtype."""
    intervals = (positions // growth.interval).astype(jnp.float32)
    factors = 1 + growth.rate * jnp.log1p(intervals)
    is_query = jnp.arange(heads.shape[1]) < num_heads
    return heads * jnp.where(is_query, factors[:, None], 1).astype(heads.dtype)[..., None]
