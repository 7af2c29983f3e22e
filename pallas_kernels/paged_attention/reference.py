"""Paged attention in plain jax.numpy and float32: one query against one row's pages, repeated. Slow and
obvious."""

import functools
import math

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.rope_cache_write import rope_cache_write

TOKENS_AT_ONCE = 16  # bounds the memory of extend: each token gathers a whole row of the cache


def decode(
    q: Array, kv_pages: AnyKVPages, page_table: Array, lengths: Array, *, sinks: Array | None, options
) -> Array:
    """See `pallas_kernels.paged_attention.decode`."""
    return jax.vmap(functools.partial(_attend, kv_pages, sinks, options))(q, page_table, lengths)


def append_and_decode(
    heads: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    lengths: Array,
    *,
    angles: tuple[Array, Array],
    norm: tuple[Array, Array, float] | None,
    kv_scales: Array | None,
    layer: int | Array | None,
    interleaved: bool = False,
    sinks: Array | None,
    options,
) -> tuple[Array, AnyKVPages]:
    """See `pallas_kernels.paged_attention.append_and_decode`. A scatter drops what is outside the cache."""
    num_pages, page_size = kv_pages.num_pages, kv_pages.page_size
    position = jnp.maximum(lengths - 1, 0)
    page_ids = jnp.take_along_axis(page_table, (position // page_size)[:, None], axis=1)[:, 0]
    page_ids = jnp.where(lengths > 0, page_ids, num_pages)
    q_scale, k_scale, epsilon = norm or (None, None, None)
    q, kv_pages = rope_cache_write(
        heads,
        kv_pages,
        *angles,
        page_ids=page_ids,
        page_offsets=position % page_size,
        q_scale=q_scale,
        k_scale=k_scale,
        epsilon=epsilon,
        kv_scales=kv_scales,
        layer=layer,
        interleaved=interleaved,
        implementation="reference",
    )
    return decode(q, kv_pages, page_table, lengths, sinks=sinks, options=options), kv_pages


def extend(
    q: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    query_starts: Array,
    lengths: Array,
    *,
    sinks: Array | None,
    options,
) -> Array:
    """See `pallas_kernels.paged_attention.extend`: a token sees its row as far as its own position."""
    token = jnp.arange(q.shape[0])
    row = jnp.searchsorted(query_starts, token, side="right") - 1
    row = jnp.minimum(row, lengths.shape[0] - 1)
    tokens_after = query_starts[row + 1] - 1 - token
    visible = jnp.where(tokens_after >= 0, lengths[row] - tokens_after, 0)

    def one_token(inputs):
        query, row, visible = inputs
        return _attend(kv_pages, sinks, options, query, page_table[row], visible)

    return jax.lax.map(one_token, (q, row, visible), batch_size=TOKENS_AT_ONCE)


def _attend(
    kv_pages: AnyKVPages, sinks: Array | None, options, q: Array, page_ids: Array, length: Array
) -> Array:
    """q [num_heads, head_dim] against the first `length` positions of the pages, -> [num_heads, head_dim]."""
    num_kv_heads, head_dim = kv_pages.num_kv_heads, kv_pages.head_dim
    k, v = kv_pages.gathered(page_ids).reshape(2, -1, num_kv_heads, head_dim)
    position = jnp.arange(k.shape[0])
    seen = position < length
    if options.sliding_window is not None:
        seen &= position >= length - options.sliding_window
    k, v = (jnp.where(seen[:, None, None], x, 0) for x in (k, v))  # what is not seen may be NaN
    grouped = q.astype(jnp.float32).reshape(num_kv_heads, -1, head_dim)
    scores = jnp.einsum("kgd,pkd->kgp", grouped, k, precision=Precision.HIGHEST)
    scores = scores * (1 / math.sqrt(head_dim) if options.scale is None else options.scale)
    if options.soft_cap is not None:
        scores = options.soft_cap * jnp.tanh(scores / options.soft_cap)
    scores = jnp.where(seen, scores, -jnp.inf)
    if sinks is not None:  # one more score in each head's softmax, whose value is zero
        sink = sinks.astype(jnp.float32).reshape(num_kv_heads, -1, 1)
        scores = jnp.concatenate([scores, sink], axis=-1)
    probabilities = jax.nn.softmax(scores, axis=-1)[..., : k.shape[0]]
    out = jnp.einsum("kgp,pkd->kgd", probabilities, v, precision=Precision.HIGHEST)
    return jnp.where(length > 0, out, 0).reshape(q.shape).astype(q.dtype)
