"""paged_attention.append_and_decode: bound by reading the cache. It is compared with the two kernels that it
replaces, and not with XLA."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.case import Case, Limit, Work
from benchmarks.kernels.cases.paged import PagedRows
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs
from pallas_kernels.core.selection import Implementation
from pallas_kernels.paged_attention import KVPages, append_and_decode, decode
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape
from pallas_kernels.rope_cache_write import rope_cache_write

EPSILON = 1e-6


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields decode steps of Qwen3-8B, and of one row of 0.6B, all of them with the norm."""
    if smoke:
        yield _case("decode-append-64x2048", PagedRows(3, 20, AttentionShape(4, 2, 32)))
        return
    for rows, positions in ((64, 2048), (1, 1024), (256, 544)):
        yield _case(f"decode-append-{rows}x{positions}", PagedRows(rows, positions, SHAPES["llama-3.1-8b"]))
    yield _case("decode-append-qwen3-0.6b-1x192", PagedRows(1, 192, SHAPES["qwen3-0.6b"]))


def _case(name: str, paged: PagedRows) -> Case:
    return Case(
        id=name,
        op="paged_attention.append_and_decode",
        shape=f"{paged}, norm",
        work=Work(read_bytes=paged.kv_bytes, flops=paged.flops),
        limit=Limit.READ,
        make=functools.partial(_make, paged),
        build=lambda blocks: functools.partial(_call, "pallas"),
        reference=functools.partial(_call, "reference"),
        xla=_pair,
        is_latency=paged.rows == 1,
    )


def _make(paged: PagedRows, data: Data, num_sets: int) -> Inputs:
    """Makes one cache, which calls write in place, with pages for the rows of every set."""
    shape, rows = paged.shape, paged.rows
    num_pages = num_sets * rows * paged.pages_each + 1
    pages = KVPages(data.normal((2, num_pages, paged.page_size, shape.num_kv_heads, shape.head_dim)))
    scales = tuple(data.normal((shape.head_dim,)) for _ in range(2))
    page_ids = np.random.default_rng(0).permutation(num_pages - 1).reshape(num_sets, rows, -1) + 1
    newest = paged.positions - 1
    sets = []
    for table in page_ids:
        heads = data.normal((rows, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim))
        angles = tuple(data.normal((rows, shape.head_dim // 2), jnp.float32) for _ in range(2))
        place = table[:, newest // paged.page_size], np.full(rows, newest % paged.page_size)
        sets.append(
            (heads, data.integers(table), paged.lengths_from(data), angles, tuple(map(data.integers, place)))
        )
    return Inputs((pages, scales), sets)


def _call(implementation: Implementation, carry, arguments):
    (kv_pages, (q_scale, k_scale)), (heads, table, lengths, angles, _) = carry, arguments
    attended, kv_pages = append_and_decode(
        *(heads, kv_pages, table, lengths, *angles),
        q_scale=q_scale,
        k_scale=k_scale,
        epsilon=EPSILON,
        implementation=implementation,
    )
    return (kv_pages, (q_scale, k_scale)), attended


def _pair(carry, arguments):
    (kv_pages, (q_scale, k_scale)), (heads, table, lengths, angles, place) = carry, arguments
    q, kv_pages = rope_cache_write(
        *(heads, kv_pages, *angles, *place),
        q_scale=q_scale,
        k_scale=k_scale,
        epsilon=EPSILON,
        implementation="pallas",
    )
    return (kv_pages, (q_scale, k_scale)), decode(q, kv_pages, table, lengths, implementation="pallas")
