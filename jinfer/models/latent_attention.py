"""Multi-head latent attention over the paged cache, in the absorbed form."""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jinfer.models.attention import TokenBatch
from jinfer.models.config import LatentAttentionConfig
from jinfer.models.layers import STATIC, LayerIndex, Linear, RMSNorm
from jinfer.models.rope import Angles
from jinfer.weights.params import Params
from pallas_kernels import Implementation
from pallas_kernels.head_matmul import head_matmul
from pallas_kernels.latent_attention import LatentPages, mla
from pallas_kernels.latent_cache_write import latent_cache_write

EPSILON = 1e-6
"""The epsilon of the norms of latent vectors, whatever rms_norm_eps is."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class LatentAttention:
    """Attention to one latent vector and one rotary key a position (DeepSeek-AI, "DeepSeek-V2", 2024).

    `q` makes queries of the hidden state, or of the latent vector that `q_down` gives, and `kv_down` gives
    the latent vector and the rotary key of the position. `kv_up` has, for each head, the rows [nope_dim,
    latent_dim] that would make its key and those [value_dim, latent_dim] that would make its value. Neither
    is made: a query times the former meets the latent vectors as they are, and their weighted sum is
    multiplied with the latter.
    """

    q_down: Linear | None
    q_norm: RMSNorm | None
    q: Linear
    kv_down: Linear
    kv_norm: RMSNorm
    kv_up: Float[Array, "layers heads_times_nope_and_value_dim latent_dim"]
    output: Linear
    implementation: Implementation = field(metadata=STATIC)

    @classmethod
    def of(cls, params: Params, implementation: Implementation) -> "LatentAttention":
        """Attention of {"q": ..., "kv_down": ..., "kv_norm": ..., "kv_up": ..., "output": ...}, with or
        without "q_down" and "q_norm"."""
        q_down, kv_norm = params.get("q_down"), RMSNorm.of(params["kv_norm"], EPSILON)
        assert kv_norm is not None
        return cls(
            q_down=None if q_down is None else Linear.of(q_down, implementation),
            q_norm=RMSNorm.of(params.get("q_norm"), EPSILON),
            q=Linear.of(params["q"], implementation),
            kv_down=Linear.of(params["kv_down"], implementation),
            kv_norm=kv_norm,
            kv_up=params["kv_up"],
            output=Linear.of(params["output"], implementation),
            implementation=implementation,
        )

    def __call__(
        self,
        x: Float[Array, "tokens features"],
        layer: LayerIndex,
        *,
        config: LatentAttentionConfig,
        angles: Angles,
        kv_pages: LatentPages,
        tokens: TokenBatch,
        norm: RMSNorm | None,
        post_norm: RMSNorm | None,
        residual: Float[Array, "tokens_or_rows features"],
        residual_scale: float = 1.0,
    ) -> tuple[Float[Array, "tokens_or_rows features"], LatentPages]:
        """residual + residual_scale * post_norm(attention(norm(x))), at `tokens.logits_indices` where they
        are given; and the layer's pages with the latent vectors and the keys of all tokens in them."""
        if self.q_down is None:
            queries = self.q(x, layer, norm=norm)
        else:
            queries = self.q(self.q_down(x, layer, norm=norm), layer, norm=self.q_norm)
        q = queries.reshape(len(x), config.num_heads, config.head_dim)
        # XLA makes one product of two that read the same, and copies both kernels side by side for it.
        apart = jax.lax.optimization_barrier(x)
        q_rope, kv_pages = latent_cache_write(
            q,
            self.kv_down(apart, layer, norm=norm),
            kv_pages,
            *angles,
            tokens.page_ids,
            tokens.page_offsets,
            scale=self.kv_norm.scale,
            epsilon=EPSILON,
            layer=layer,
            interleaved=config.has_interleaved_rope,
            implementation=self.implementation,
        )
        attended = self._attend(q, q_rope, layer, config, kv_pages, tokens)
        added = self.output(
            attended, layer, post_norm=post_norm, residual=residual, residual_scale=residual_scale
        )
        return added, kv_pages

    def _attend(
        self,
        q: Array,
        q_rope: Array,
        layer: LayerIndex,
        config: LatentAttentionConfig,
        kv_pages: LatentPages,
        tokens: TokenBatch,
    ) -> Float[Array, "tokens_or_rows heads_times_value_dim"]:
        """The values of what each token sees in the cache, or the token at each of
        `tokens.logits_indices`."""
        seen: dict[str, Any] = {"lengths": tokens.lengths}
        if tokens.logits_indices is not None:
            q, q_rope = q[tokens.logits_indices], q_rope[tokens.logits_indices]
        elif tokens.query_starts is not None:
            is_token = jnp.arange(len(q)) < tokens.query_starts[-1]
            seen = {"lengths": jnp.where(is_token, tokens.positions + 1, 0), "row_ids": tokens.row_ids}
        key_rows = 0, config.nope_dim
        value_rows = config.nope_dim, config.nope_dim + config.value_dim
        up = functools.partial(head_matmul, layer=layer, implementation=self.implementation)
        attended = mla(
            up(q, self.kv_up, rows=key_rows),
            q_rope,
            kv_pages,
            tokens.page_table,
            **seen,
            scale=config.scale,
            implementation=self.implementation,
        )
        return up(attended, self.kv_up, rows=value_rows, transposed=True).reshape(len(q), -1)
