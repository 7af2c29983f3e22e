"""Latent attention in plain jax.numpy and float32: every head of a row against the row's pages. Slow and
obvious."""

import functools

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array


def mla(
    q_latent: Array,
    q_rope: Array,
    kv_pages: Array,
    page_table: Array,
    lengths: Array,
    *,
    scale: float,
    soft_cap: float | None,
    row_ids: Array | None = None,
) -> Array:
    """See `pallas_kernels.latent_attention.mla`."""
    attend = functools.partial(_attend, kv_pages, scale, soft_cap)
    q = jnp.concatenate([q_latent, q_rope], axis=-1).astype(jnp.float32)
    page_ids = page_table if row_ids is None else page_table[row_ids]
    return jax.vmap(attend)(q, page_ids, lengths)[..., : q_latent.shape[-1]].astype(q_latent.dtype)


def _attend(
    kv_pages: Array, scale: float, soft_cap: float | None, q: Array, page_ids: Array, length: Array
) -> Array:
    """q [num_heads, latent_dim + rope_dim] -> the mean over the first `length` positions, of that shape
    too."""
    kv = kv_pages[page_ids].reshape(-1, kv_pages.shape[-1]).astype(jnp.float32)
    seen = jnp.arange(kv.shape[0]) < length
    kv = jnp.where(seen[:, None], kv, 0)  # what is not seen may be NaN
    scores = scale * jnp.einsum("hd,pd->hp", q, kv, precision=Precision.HIGHEST)
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    probabilities = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    out = jnp.einsum("hp,pd->hd", probabilities, kv, precision=Precision.HIGHEST)
    return jnp.where(length > 0, out, 0)
