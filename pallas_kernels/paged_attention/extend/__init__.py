"""Many query tokens per row: ragged and causal."""

import functools
from collections.abc import Callable

from jaxtyping import Array, Float, Int32

from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.selection import Implementation, select, should_interpret
from pallas_kernels.paged_attention import reference
from pallas_kernels.paged_attention.contract import PLAIN, AttentionOptions, check_shapes
from pallas_kernels.paged_attention.extend import mosaic, triton
from pallas_kernels.paged_attention.extend.mixed import extend_mixed

__all__ = ["extend"]


def extend(
    q: Float[Array, "tokens num_heads head_dim"],
    kv_pages: AnyKVPages,
    page_table: Int32[Array, "rows max_pages"],
    query_starts: Int32[Array, " rows_plus_1"],
    lengths: Int32[Array, " rows"],
    *,
    num_decode_rows: Int32[Array, ""] | None = None,
    sinks: Float[Array, " num_heads"] | None = None,
    options: AttentionOptions = PLAIN,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "tokens num_heads head_dim"]:
    """Causal attention of a ragged batch of new tokens over cached and new positions.

    Row r owns the tokens query_starts[r] to query_starts[r + 1]; they are the last of its `lengths[r]`
    positions, whose keys and values are all in the cache already. Tokens from query_starts[-1] on are padding
    and give zeros. Rows of a few tokens each, as speculative decoding verifies, are split over programs where
    there are too few.

    `num_decode_rows` says that so many rows, the first ones, have one query token each: mixed batches of
    continuous batching. Decode's kernel serves them: it is bound by reading a row's cache, while extend's
    would multiply blocks of 64 query tokens of which 63 are padding. The count may change
    from call to call.

    "pallas" is one of two kernels. On Hopper and for 4,096 tokens or more it is "mosaic", the kernel in
    Mosaic GPU, where that serves the call (`mosaic.why_not`); otherwise it is "triton".
    A cache in 8 bits is widened for it, page by page; rows with more than 65,536 positions together are
    left to "triton".

    On an H200 in bfloat16 with 32 query and 8 KV heads of 128: one row of 8,192 tokens at 566 TFLOP/s, and at
    381 in Triton; 16 rows of 2,048 at 470 and 338; and 32 rows of 256 new tokens on 4,096 cached ones at 519
    and 372. docs/performance/prefill-on-hopper.md and attention-kernels.md have what limits them.

    Raises ValueError where shapes contradict each other, and UnsupportedError where `implementation` cannot
    serve them.
    """
    check_shapes(q, kv_pages, page_table=page_table, lengths=lengths, sinks=sinks)
    if query_starts.shape != (lengths.shape[0] + 1,):
        raise ValueError(
            f"query_starts has shape {query_starts.shape}, but {lengths.shape[0]} rows need one more entry"
        )
    if num_decode_rows is not None and q.shape[0] < lengths.shape[0]:
        raise ValueError(
            f"{q.shape[0]} tokens cannot be those of {lengths.shape[0]} rows; give a mixed batch as many"
        )
    chosen = select(implementation, ("pallas", "triton", "mosaic", "reference"))
    attend: Callable[..., Array]
    if chosen == "reference":
        attend = reference.extend
    else:
        interpret = should_interpret(interpret)
        is_best = chosen == "pallas" and not interpret
        is_best = is_best and mosaic.is_best_for(q, kv_pages, sinks=sinks, options=options)
        use_mosaic = chosen == "mosaic" or is_best
        attend = mosaic.extend if use_mosaic else functools.partial(triton.extend, interpret=interpret)
        if num_decode_rows is not None:
            attend = functools.partial(
                extend_mixed, num_decode_rows=num_decode_rows, use_mosaic=use_mosaic, interpret=interpret
            )
    return attend(
        q=q,
        kv_pages=kv_pages,
        page_table=page_table,
        query_starts=query_starts,
        lengths=lengths,
        sinks=sinks,
        options=options,
    )
