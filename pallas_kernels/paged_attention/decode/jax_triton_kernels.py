"""The kernels of `jax_triton.py`, in Triton proper. Importing this file needs triton.

The design is that of `triton/decode.py`: a program serves several KV heads of one row, the rows of its dots
are the query heads of those KV heads, and the columns are (position, KV head) pairs in the order in which
they lie in memory.

Arguments in capitals are known when the kernel is compiled. Maxima are in units of log 2: exp(s) is
exp2(s * LOG2_SCALE) of a score s.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Finite, so that the difference of two masked scores is 0 and not NaN; and a power of two, so that the
# product with the scale is exact and that difference stays 0 where multiplication and subtraction are fused.
MASKED_SCORE = tl.constexpr(-(2.0**100))


@triton.jit
def decode_kernel(
    q_ptr,  # [rows, NUM_HEADS, HEAD_DIM]
    kv_ptr,  # [2, NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM]
    table_ptr,  # [rows, MAX_PAGES]
    lengths_ptr,  # [rows]
    sinks_ptr,  # [NUM_HEADS]; any pointer without sinks
    # [rows, NUM_HEADS, HEAD_DIM], or float32 [rows, NUM_HEADS, NUM_SPLITS, HEAD_DIM] for `merge_kernel`.
    out_ptr,
    top_ptr,  # float32 [rows, NUM_HEADS, NUM_SPLITS]; None where nothing is merged
    total_ptr,  # like top_ptr
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    NUM_PAGES: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    MAX_PAGES: tl.constexpr,
    LOG2_SCALE: tl.constexpr,
    LOG2_CAP_SCALE: tl.constexpr,  # None without a soft cap
    SLIDING_WINDOW: tl.constexpr,  # None without one
    HAS_SINKS: tl.constexpr,
    PRECISION: tl.constexpr,  # of the dots
    NUM_QUERIES: tl.constexpr,  # rows of a dot, KV_HEADS groups and padding
    PADDED_DIM: tl.constexpr,
    KV_HEADS: tl.constexpr,
    TILE: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """One program per (block of KV heads, row, split)."""
    first_kv_head, row, split = tl.program_id(0) * KV_HEADS, tl.program_id(1), tl.program_id(2)
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    length = tl.load(lengths_ptr + row)
    begin = window_begin(length, SLIDING_WINDOW)
    share = tiles_per_split(begin, length, TILE, NUM_SPLITS)
    first_tile = begin // TILE + split * share
    last_tile = tl.minimum(first_tile + share, tl.cdiv(length, TILE))
    # Where nothing is merged, a row of length 0 is written here.
    if (first_tile >= last_tile) & (NUM_SPLITS > 1):
        return

    query, dim = tl.arange(0, NUM_QUERIES), tl.arange(0, PADDED_DIM)
    head = first_kv_head * GROUP + query
    is_query = (query < KV_HEADS * GROUP) & (head < NUM_HEADS)
    inside = is_query[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + (row * NUM_HEADS + head)[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
    top = tl.full([NUM_QUERIES], MASKED_SCORE, tl.float32)
    total = tl.zeros([NUM_QUERIES], tl.float32)
    if HAS_SINKS:  # once per query
        sink = tl.load(sinks_ptr + head, mask=is_query, other=0.0).to(tl.float32)
        top = tl.where(split == 0, sink * LOG2_E, top)
        total = tl.where(split == 0, total + 1, total)
    acc = tl.zeros([NUM_QUERIES, PADDED_DIM], tl.float32)

    column = tl.arange(0, TILE * KV_HEADS)
    is_own = (query // GROUP)[:, None] == (column % KV_HEADS)[None, :]
    kv_head = tl.minimum(first_kv_head + column % KV_HEADS, NUM_KV_HEADS - 1)
    PAGE_STRIDE: tl.constexpr = PAGE_SIZE * NUM_KV_HEADS * HEAD_DIM
    table_ptr += row * MAX_PAGES
    page = load_page(table_ptr, first_tile, begin, length, column, PAGE_SIZE, KV_HEADS, TILE)
    for tile in range(first_tile, last_tile):
        # What is outside reads a position that is inside, and its score is masked.
        position = tile * TILE + column // KV_HEADS
        seen = (position >= begin) & (position < length)
        offset = tl.minimum(tl.maximum(position, begin), length - 1) % PAGE_SIZE
        within_page = (offset * NUM_KV_HEADS + kv_head) * HEAD_DIM
        k_ptr = kv_ptr + page.to(tl.int64) * PAGE_STRIDE + within_page
        k = load_rows(k_ptr, dim, HEAD_DIM, PADDED_DIM)
        scores = tl.dot(q, k.T, input_precision=PRECISION)
        if LOG2_CAP_SCALE is not None:  # tanh(x) = 1 - 2 / (exp(2x) + 1), which overflows to no NaN
            scores = 1 - 2 / (tl.exp2(scores * LOG2_CAP_SCALE) + 1)
        scores = tl.where(is_own & seen[None, :], scores, MASKED_SCORE)
        new_top = tl.maximum(top, tl.max(scores, 1) * LOG2_SCALE)
        weight = tl.exp2(scores * LOG2_SCALE - new_top[:, None])
        rescale = tl.exp2(top - new_top)
        v = load_rows(k_ptr + NUM_PAGES * PAGE_STRIDE, dim, HEAD_DIM, PADDED_DIM)
        acc = tl.dot(weight.to(v.dtype), v, acc * rescale[:, None], input_precision=PRECISION)
        total = total * rescale + tl.sum(weight, 1)
        top = new_top
        # A tile ahead: a load whose address is loaded in the same iteration takes two stages of the pipeline.
        page = load_page(table_ptr, tile + 1, begin, length, column, PAGE_SIZE, KV_HEADS, TILE)

    if NUM_SPLITS == 1:
        out = acc / tl.where(total == 0, 1, total)[:, None]
        out = tl.where(length > 0, out, 0).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + (row * NUM_HEADS + head)[:, None] * HEAD_DIM + dim[None, :], out, mask=inside)
    else:
        partial = (row * NUM_HEADS + head) * NUM_SPLITS + split
        tl.store(out_ptr + partial[:, None] * HEAD_DIM + dim[None, :], acc, mask=inside)
        tl.store(top_ptr + partial, top, mask=is_query)
        tl.store(total_ptr + partial, total, mask=is_query)


@triton.jit
def merge_kernel(
    acc_ptr,  # [rows, NUM_HEADS, NUM_SPLITS, HEAD_DIM]
    top_ptr,  # [rows, NUM_HEADS, NUM_SPLITS]
    total_ptr,
    lengths_ptr,  # [rows]
    out_ptr,  # [rows, NUM_HEADS, HEAD_DIM]
    HEAD_DIM: tl.constexpr,
    SLIDING_WINDOW: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PADDED_SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):
    """One program per (head, row). Splits without positions wrote nothing and are not read."""
    head, row, num_heads = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    length = tl.load(lengths_ptr + row)
    begin = window_begin(length, SLIDING_WINDOW)
    share = tiles_per_split(begin, length, TILE, NUM_SPLITS)
    num_used = tl.cdiv(tl.cdiv(length, TILE) - begin // TILE, tl.maximum(share, 1))

    split, dim = tl.arange(0, PADDED_SPLITS), tl.arange(0, PADDED_DIM)
    used = split < num_used
    partial = (row * num_heads + head) * NUM_SPLITS + split
    top = tl.load(top_ptr + partial, mask=used, other=MASKED_SCORE)
    total = tl.load(total_ptr + partial, mask=used, other=0.0)
    inside = used[:, None] & (dim < HEAD_DIM)[None, :]
    acc = tl.load(acc_ptr + partial[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
    weight = tl.exp2(top - tl.max(top, 0))
    denominator = tl.sum(total * weight, 0)
    out = tl.sum(acc * weight[:, None], 0) / tl.where(denominator == 0, 1, denominator)
    out_ptr += (row * num_heads + head) * HEAD_DIM
    tl.store(out_ptr + dim, out.to(out_ptr.dtype.element_ty), mask=dim < HEAD_DIM)


@triton.jit
def window_begin(length, SLIDING_WINDOW: tl.constexpr):
    """The oldest position that the query at `length` - 1 sees."""
    return length * 0 if SLIDING_WINDOW is None else tl.maximum(length - SLIDING_WINDOW, 0)


@triton.jit
def tiles_per_split(begin, length, TILE: tl.constexpr, NUM_SPLITS: tl.constexpr):
    """Tiles begin at multiples of TILE, so that none spans two pages where TILE divides a page."""
    return tl.cdiv(tl.cdiv(length, TILE) - begin // TILE, NUM_SPLITS)


@triton.jit
def load_page(
    table_ptr,
    tile,
    begin,
    length,
    column,
    PAGE_SIZE: tl.constexpr,
    KV_HEADS: tl.constexpr,
    TILE: tl.constexpr,
):
    """The page of each column of any tile, or of all of them where a tile lies in one page."""
    position = tile * TILE if PAGE_SIZE % TILE == 0 else tile * TILE + column // KV_HEADS
    return tl.load(
        table_ptr + tl.maximum(tl.minimum(tl.maximum(position, begin), length - 1), 0) // PAGE_SIZE
    )


@triton.jit
def load_rows(row_ptr, dim, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr):
    """[n, PADDED_DIM], padded with zeros."""
    ptr = row_ptr[:, None] + dim[None, :]
    return tl.load(ptr) if HEAD_DIM == PADDED_DIM else tl.load(ptr, mask=(dim < HEAD_DIM)[None, :], other=0.0)
