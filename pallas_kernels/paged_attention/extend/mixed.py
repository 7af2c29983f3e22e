"""Mixed batches: rows of one query token through decode's kernel, the others through extend's."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.triton_call import ceil_div
from pallas_kernels.paged_attention.decode.triton import decode
from pallas_kernels.paged_attention.decode.tuning import DecodeCall, decode_blocks
from pallas_kernels.paged_attention.extend import mosaic
from pallas_kernels.paged_attention.extend.triton import extend
from pallas_kernels.paged_attention.extend.tuning import ExtendCall, extend_blocks

# Of a mixed batch, for the choice of blocks: programs in turn cost less than an idle machine.
ROWS_PER_DECODE_ROW = 8


def extend_mixed(
    q: Array,
    kv_pages: AnyKVPages,
    page_table: Array,
    query_starts: Array,
    lengths: Array,
    *,
    sinks: Array | None,
    options,
    num_decode_rows: Array,
    use_mosaic: bool,
    interpret: bool,
) -> Array:
    """Both kernels get all rows, and treat each other's rows as empty, at nearly no cost.

    Of 3 decode rows and a chunk of 4 tokens:

        query_starts         [0, 1, 2, 3, 7]
        as extend sees it    [3, 3, 3, 3, 7]    (writes nothing for the first 3 tokens; decode nothing else)
        lengths              [9, 5, 2, 20]
        as decode sees them  [9, 5, 2, 0]
    """
    is_decode = jnp.arange(lengths.shape[0]) < num_decode_rows
    chunk_starts = jnp.maximum(query_starts, num_decode_rows)
    attend_chunks: Callable[..., Array] = mosaic.extend
    if not use_mosaic:
        # The blocks are those of one long row: most rows are padding and decode rows, so that their number
        # does not tell how long the chunks are.
        blocks = extend_blocks(ExtendCall.of(q, kv_pages, page_table)._replace(rows=1))
        attend_chunks = functools.partial(extend, blocks=blocks, interpret=interpret)
    extended = attend_chunks(
        q=q,
        kv_pages=kv_pages,
        page_table=page_table,
        query_starts=chunk_starts,
        lengths=lengths,
        sinks=sinks,
        options=options,
    )
    decode_lengths = jnp.where(is_decode, lengths, 0)
    decode_rows = ceil_div(lengths.shape[0], ROWS_PER_DECODE_ROW)
    return decode(
        q=q,
        kv_pages=kv_pages,
        page_table=page_table,
        lengths=decode_lengths,
        sinks=sinks,
        options=options,
        into=extended,
        blocks=decode_blocks(DecodeCall.of(q, kv_pages, page_table)._replace(rows=decode_rows)),
        interpret=interpret,
    )
