"""Prefill over a cache in 8 bits: the pages of the rows that get new tokens are first widened to 16 bits, all
of a row one after the other, and attended as such.

Every tile of keys is multiplied with dozens of blocks of queries, so that one that is converted on its way to
a matmul is converted as often. Widened pages are written once and read from the L2 cache or nearly so: for a
row of 8,192 tokens that is 50 MB beside 0.5 TFLOP.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.kv_pages import KVPages, QuantizedKVPages
from pallas_kernels.core.triton_call import ceil_div, triton_call

MAX_POSITIONS = 65_536  # of all rows with new tokens together: 268 MB with 8 KV heads of 128
BLOCK_ELEMENTS = 8192  # that a program widens at once


class Slots(NamedTuple):
    """The places of widened pages, and what goes there.

    Of rows with 3 and 2 pages, of which both get tokens, sources are [p00, p01, p02, p10, p11] and the page
    table is [[0, 1, 2], [3, 4, 5]], whose last entry is after its row's end and never read.
    """

    page_table: Array  # [rows, max_pages], of widened pages
    sources: Array  # [slots], pages of the cache
    used: Array  # the slots in use, or how many more there would have to be

    @classmethod
    def of(
        cls, page_table: Array, query_starts: Array, lengths: Array, *, page_size: int, num_slots: int
    ) -> "Slots":
        has_tokens = jnp.diff(query_starts) > 0
        num_pages = jnp.where(has_tokens, ceil_div(lengths, page_size), 0)
        end = jnp.cumsum(num_pages)
        first = end - num_pages
        slot = jnp.arange(num_slots, dtype=jnp.int32)
        row = jnp.minimum(jnp.sum(slot[:, None] >= end, axis=1), len(end) - 1)
        page = jnp.clip(slot - first[row], 0, page_table.shape[1] - 1)
        place = first[:, None] + jnp.arange(page_table.shape[1], dtype=jnp.int32)
        return cls(jnp.minimum(place, num_slots - 1), page_table[row, page], end[-1])


def num_slots(pages: QuantizedKVPages, page_table: Array) -> int:
    """Slots for all that rows can have, or for MAX_POSITIONS."""
    return min(page_table.size, max(1, MAX_POSITIONS // pages.page_size))


@functools.partial(jax.jit, static_argnames=("interpret",))
def widen(pages: QuantizedKVPages, sources: Array, count: Array, *, interpret: bool) -> KVPages:
    """The first `count` of these pages in `pages.dtype`: values times scales, in float32 and rounded once.
    The others hold anything. Jitted, so that all layers of a model share one trace."""
    num_vectors, head_dim = pages.page_size * pages.num_kv_heads, pages.head_dim
    block = max(1, BLOCK_ELEMENTS // head_dim)
    shape = 2, len(sources), pages.page_size, pages.num_kv_heads, head_dim
    (widened,) = triton_call(
        functools.partial(_kernel, num_kv_heads=pages.num_kv_heads, block=block),
        pages.values.reshape(2, pages.num_pages, num_vectors, head_dim),
        pages.scales.reshape(2, pages.num_pages, num_vectors),
        sources,
        count.reshape(1),
        out_shape=[jax.ShapeDtypeStruct((2, len(sources), num_vectors, head_dim), pages.dtype)],
        grid=(ceil_div(num_vectors, block), len(sources), 2),
        num_warps=4,
        num_stages=1,
        interpret=interpret,
        name="widen_pages",
    )
    return KVPages(widened.reshape(shape))


def _kernel(values_ref, scales_ref, sources_ref, count_ref, out_ref, *, num_kv_heads: int, block: int):
    """A program per block of a page's vectors, which lie position by position; scales lie head by head."""
    kind, slot = pl.program_id(2), pl.program_id(1)
    _, _, num_vectors, head_dim = out_ref.shape
    vector = pl.program_id(0) * block + jnp.arange(block)
    page_size = num_vectors // num_kv_heads
    scale_index = jax.lax.rem(vector, num_kv_heads) * page_size + jax.lax.div(vector, num_kv_heads)
    is_used = (vector < num_vectors) & (slot < count_ref[jnp.int32(0)])
    page = sources_ref[slot]
    column = jnp.arange(head_dim)[None, :]
    inside = jnp.broadcast_to(is_used[:, None], (block, head_dim))
    zero = jnp.zeros((), values_ref.dtype)  # a 0 of Python is no fp8 to Triton
    values = plt.load(values_ref.at[kind, page, vector[:, None], column], mask=inside, other=zero)
    scales = plt.load(scales_ref.at[kind, page, scale_index], mask=is_used, other=0)
    if values.dtype != jnp.int8:
        values = values.astype(jnp.float16)  # which holds them all: one instruction for two
    wide = values.astype(jnp.float32) * scales[:, None]
    plt.store(out_ref.at[kind, slot, vector[:, None], column], wide.astype(out_ref.dtype), mask=inside)
