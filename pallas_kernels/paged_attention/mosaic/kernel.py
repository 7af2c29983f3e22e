"""The kernel of `extend`: warpgroups with roles, one that loads and two that attend.

A program takes pieces of work one after another, longest first. A piece is a block of query tokens of one row and some
query heads of one group; the dots' rows are (token, head). Each attending warpgroup has 64 of them. A tile of keys and
one of values serve both warpgroups, arrive page by page, and are used from the newest positions to the oldest, so that
only the first tiles need a mask.

The attending warpgroups take turns: one multiplies while the other computes its softmax, and within a warpgroup the
scores of the next tile are multiplied together with the values of this one (Shah et al., "FlashAttention-3", 2024).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels.paged_attention.mosaic import primitives as mg
from pallas_kernels.triton_call import LOG2_E

QUERY_ROWS = 64  # of a warpgroup: Hopper's matmul has as many
ATTENDING = 2  # warpgroups
# Of 65,536 registers; the loading warpgroup needs few. All in multiples of 8 a thread.
ATTENDING_REGISTERS, LOADING_REGISTERS = 232, 40
FOLDED = 8  # columns: a thread has two neighbours of them in two rows
# Finite, and a power of two: see the Triton kernel's softmax.
MASKED_SCORE = -(2.0**100)


@dataclass(frozen=True)
class Shape:
    """What the kernel knows when it is compiled. `heads` is how many query heads a piece of work has."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    num_pages: int
    max_pages: int
    heads: int
    scale: float
    tile: int
    num_stages: int
    num_query_buffers: int
    num_programs: int
    head_group: int
    variant: str = ""

    @property
    def tokens(self) -> int:
        """Query tokens of a warpgroup."""
        return QUERY_ROWS // self.heads

    @property
    def head_blocks(self) -> int:
        return self.num_heads // self.heads

    @property
    def chunks(self) -> int:
        return self.head_dim // mg.CHUNK

    @property
    def rows_per_copy(self) -> int:
        return min(self.page_size, self.tile)

    @property
    def log2_scale(self) -> float:
        return LOG2_E * self.scale


class Refs(NamedTuple):
    """Operands in global memory, the result, and shared memory."""

    q: Any  # [tokens, num_heads, head_dim]
    kv: Any  # [2 * num_pages * page_size, num_kv_heads * head_dim]
    table: Any  # [rows, max_pages]
    work: Any  # [fields of Work, blocks]
    num_blocks: Any  # [1]: those that have queries
    out: Any  # like q
    q_tiles: Any  # [num_query_buffers, chunks, ATTENDING, QUERY_ROWS, CHUNK]
    k_tiles: Any  # [num_stages, tile, head_dim]
    v_tiles: Any
    barriers: Any


class Barriers:
    """Where each barrier is, and how many arrivals complete it."""

    def __init__(self, shape: Shape):
        stages, buffers = shape.num_stages, shape.num_query_buffers
        released = ATTENDING * mg.WARPS
        groups = {
            "k_full": (stages, 1),
            "v_full": (stages, 1),
            "k_free": (stages, released),
            "v_free": (stages, released),
            "q_full": (buffers, 1),
            "q_free": (buffers, released),
            "v_tail": (1, 1),
        }
        self.arrivals: list[int] = []
        for name, (count, arrivals) in groups.items():
            setattr(self, name, len(self.arrivals))
            self.arrivals += [arrivals] * count


class Work(NamedTuple):
    """A block of query tokens, as `query_blocks` describes it, and the first of its query heads."""

    row: Any
    token: Any
    num_queries: Any
    position: Any
    length: Any
    head: Any

    def num_tiles(self, shape: Shape):
        last = jnp.minimum(self.length, self.position + ATTENDING * shape.tokens)
        return _div(jnp.maximum(last, 0) + shape.tile - 1, shape.tile)


def kernel(*refs, shape: Shape):
    refs = Refs(*refs)
    bars = Barriers(shape)
    warpgroup = lax.axis_index("warpgroup")
    mg.init_barriers(refs.barriers, bars.arrivals)

    @pl.when(warpgroup < ATTENDING)
    def _():
        plgpu.set_max_registers(ATTENDING_REGISTERS, action="increase")
        _attend_all(refs, bars, warpgroup, shape)

    @pl.when(warpgroup == ATTENDING)
    def _():
        plgpu.set_max_registers(LOADING_REGISTERS, action="decrease")
        _load_all(refs, bars, shape)


# --- the pieces of work of a program ---


def _num_pieces(refs: Refs, shape: Shape):
    """Of this program; see `_piece`."""
    total = refs.num_blocks[0] * shape.head_blocks
    rounds, rest = _div(total, shape.num_programs), _rem(total, shape.num_programs)
    return rounds + (_place(rounds, shape) < rest).astype(jnp.int32)


def _place(n, shape: Shape):
    """Where in the n-th round of pieces this program takes its own: back and forth, so that none always has the
    longest of a round."""
    program = lax.axis_index("program")
    return jnp.where(_rem(n, 2) == 0, program, shape.num_programs - 1 - program)


def _piece(refs: Refs, n, shape: Shape) -> Work:
    index = n * shape.num_programs + _place(n, shape)
    # Of `head_group` heads all blocks, then of the next ones.
    num_blocks = jnp.maximum(refs.num_blocks[0], 1)
    of_group = num_blocks * shape.head_group
    group, index = lax.div(index, of_group), lax.rem(index, of_group)
    block, head_block = _div(index, shape.head_group), group * shape.head_group + _rem(index, shape.head_group)
    block = jnp.minimum(block, refs.work.shape[1] - 1)
    fields = (refs.work[field, block] for field in range(refs.work.shape[0]))
    return Work(*fields, head_block * shape.heads)


def _for_each_piece(refs: Refs, shape: Shape, body, *counts):
    """body(n, work, *counts) -> counts, with the next piece's description read one piece ahead."""

    def one_piece(n, carry):
        work, *counts = carry
        return (_piece(refs, n + 1, shape), *body(n, work, *counts))

    start = (_piece(refs, 0, shape), *counts)
    return lax.fori_loop(0, _num_pieces(refs, shape), one_piece, start)[1:]


def _div(a, b: int):
    """a // b of numbers that are not negative, which `//` would care for."""
    return lax.div(a, jnp.int32(b))


def _rem(a, b: int):
    return lax.rem(a, jnp.int32(b))


def _slot_and_phase(n, count: int):
    return _rem(n, count), _rem(_div(n, count), 2)


# --- loading ---


def _load_all(refs: Refs, bars: Barriers, shape: Shape):
    def one_piece(n, work: Work, num_loaded, num_tails):
        _load_queries(refs, bars, n, work, shape)
        num_tiles = work.num_tiles(shape)
        has_tail = (num_tiles > 0) & (num_tiles * shape.tile > work.length)

        def one_tile(i, pages):
            next_pages = _pages_of_tile(refs, work, num_tiles - 2 - i, shape)
            _load_tile(refs, bars, num_loaded + i, work, pages, (i == 0) & has_tail, num_tails, num_tiles, shape)
            return next_pages

        lax.fori_loop(0, num_tiles, one_tile, _pages_of_tile(refs, work, num_tiles - 1, shape))
        return num_loaded + num_tiles, num_tails + has_tail.astype(jnp.int32)

    _for_each_piece(refs, shape, one_piece, jnp.int32(0), jnp.int32(0))


def _load_queries(refs: Refs, bars: Barriers, n, work: Work, shape: Shape):
    buffer, phase = _slot_and_phase(n, shape.num_query_buffers)
    mg.wait(refs.barriers, bars.q_free + buffer, 1 - phase)
    mg.copy_queries(
        refs.q,
        refs.q_tiles.at[buffer],
        refs.barriers,
        bars.q_full + buffer,
        work.token,
        work.head,
        (ATTENDING * shape.tokens, shape.heads),
    )


def _pages_of_tile(refs: Refs, work: Work, tile, shape: Shape):
    """The first row in `kv` of each copy of a tile. Beyond the row's length its last page is read again."""
    last = jnp.maximum(work.length - 1, 0)
    rows = []
    for offset in range(0, shape.tile, shape.rows_per_copy):
        position = jnp.clip(tile * shape.tile + offset, 0, _div(last, shape.rows_per_copy) * shape.rows_per_copy)
        page = refs.table[work.row, _div(position, shape.page_size)]
        rows.append(page * shape.page_size + _rem(position, shape.page_size))
    return tuple(rows)


def _load_tile(refs: Refs, bars: Barriers, count, work: Work, pages, has_tail, num_tails, num_tiles, shape: Shape):
    stage, phase = _slot_and_phase(count, shape.num_stages)
    kv_head = _div(work.head, shape.num_heads // shape.num_kv_heads)
    column = kv_head * shape.head_dim

    def copy(tiles, barrier, first_rows):
        mg.copy_pages(
            refs.kv, tiles.at[stage], refs.barriers, barrier, first_rows, column, shape.rows_per_copy
        )

    mg.wait(refs.barriers, bars.k_free + stage, 1 - phase)
    copy(refs.k_tiles, bars.k_full + stage, pages)
    mg.wait(refs.barriers, bars.v_free + stage, 1 - phase)
    first_value = shape.num_pages * shape.page_size
    copy(refs.v_tiles, jnp.where(has_tail, bars.v_tail, bars.v_full + stage), [row + first_value for row in pages])

    @pl.when(has_tail)
    def _():
        """A weight of 0 does not silence a NaN behind the row's last position."""
        mg.wait(refs.barriers, bars.v_tail, _rem(num_tails, 2))
        mg.zero_rows(refs.v_tiles.at[stage], work.length - (num_tiles - 1) * shape.tile)
        mg.arrive_once(refs.barriers, bars.v_full + stage)


# --- attending ---


def _attend_all(refs: Refs, bars: Barriers, warpgroup, shape: Shape):
    @pl.when((warpgroup == 1) & ("noturn" not in shape.variant))
    def _():
        mg.give_turn(0)

    def one_piece(n, work: Work, num_used):
        work = work._replace(  # what is this warpgroup's
            token=work.token + warpgroup * shape.tokens,
            num_queries=work.num_queries - warpgroup * shape.tokens,
            position=work.position + warpgroup * shape.tokens,
        )
        num_tiles = work._replace(position=work.position - warpgroup * shape.tokens).num_tiles(shape)
        _attend_piece(refs, bars, n, work, num_tiles, num_used, warpgroup, shape)
        return (num_used + num_tiles,)

    _for_each_piece(refs, shape, one_piece, jnp.int32(0))

    @pl.when((warpgroup == 0) & ("noturn" not in shape.variant))
    def _():
        mg.take_turn(0)

    plgpu.wait_smem_to_gmem(0)


def _attend_piece(refs: Refs, bars: Barriers, n, work: Work, num_tiles, num_used, warpgroup, shape: Shape):
    buffer, phase = _slot_and_phase(n, shape.num_query_buffers)

    @pl.when(n > 0)
    def _():
        """The result of the piece before has left the tile of its queries."""
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        mg.arrive_per_warp(refs.barriers, bars.q_free + _rem(n - 1, shape.num_query_buffers))

    mg.wait(refs.barriers, bars.q_full + buffer, phase)
    q_tile = refs.q_tiles.at[buffer, :, warpgroup]

    @pl.when(num_tiles > 0)
    def _():
        acc, total = _attend(refs, bars, q_tile, work, num_tiles, num_used, warpgroup, shape)
        _store(refs, q_tile, acc * lax.broadcast_in_dim(1 / total, acc.shape, (0,)), work, shape)

    @pl.when(num_tiles == 0)
    def _():
        _store(refs, q_tile, _filled((QUERY_ROWS, shape.head_dim), 0.0), work, shape)


def _attend(refs: Refs, bars: Barriers, q_tile, work: Work, num_tiles, num_used, warpgroup, shape: Shape):
    """The sum of weighted values and the sum of weights, from the newest tile to the oldest."""
    num_seen_by_all = _div(jnp.maximum(work.position + 1, 0), shape.tile)  # tiles without a mask
    edge = jnp.clip(num_tiles - num_seen_by_all, 1, num_tiles)  # tiles with one, the first of the loop among them

    def step(is_edge: bool):
        def one_tile(i, carry):
            return _step(refs, bars, q_tile, work, num_tiles - 1 - i, num_used + i, carry, is_edge, warpgroup, shape)

        return one_tile

    carry = _first_step(refs, bars, q_tile, work, num_tiles - 1, num_used, warpgroup, shape)
    carry = lax.fori_loop(1, edge, step(True), carry)
    acc, _, total, weights = lax.fori_loop(edge, num_tiles, step(False), carry)
    stage, phase = _slot_and_phase(num_used + num_tiles - 1, shape.num_stages)
    mg.wait(refs.barriers, bars.v_full + stage, phase)

    def last_values(acc_ref):
        acc_ref[...] = acc
        plgpu.wgmma(acc_ref, weights, refs.v_tiles.at[stage])
        return acc_ref[...]

    acc = pl.run_scoped(last_values, plgpu.ACC((QUERY_ROWS, shape.head_dim), jnp.float32))
    mg.arrive_per_warp(refs.barriers, bars.v_free + stage)
    return acc, total.sum(axis=1)


def _multiply_keys(scores_ref, refs: Refs, q_tile, stage, shape: Shape):
    for chunk in range(shape.chunks):
        keys = refs.k_tiles.at[stage, :, pl.ds(chunk * mg.CHUNK, mg.CHUNK)]
        plgpu.wgmma(scores_ref, q_tile.at[chunk], keys.transpose((1, 0)))


def _first_step(refs: Refs, bars: Barriers, q_tile, work: Work, tile, count, warpgroup, shape: Shape):
    stage, phase = _slot_and_phase(count, shape.num_stages)
    mg.wait(refs.barriers, bars.k_full + stage, phase)

    def scores_of(scores_ref):
        if "noturn" not in shape.variant:
            mg.take_turn(warpgroup)
        _multiply_keys(scores_ref, refs, q_tile, stage, shape)
        if "noturn" not in shape.variant:
            mg.give_turn(1 - warpgroup)
        return scores_ref[...]

    scores = pl.run_scoped(scores_of, plgpu.ACC((QUERY_ROWS, shape.tile), jnp.float32))
    mg.arrive_per_warp(refs.barriers, bars.k_free + stage)
    scores = _masked(scores, tile, work, shape)
    top = _maximum(scores) * shape.log2_scale
    weights = _weights(scores, top, shape)
    acc = _filled((QUERY_ROWS, shape.head_dim), 0.0)
    return acc, top, _folded(jnp.add, weights), weights.astype(refs.q.dtype)


def _step(refs: Refs, bars: Barriers, q_tile, work: Work, tile, count, carry, is_edge: bool, warpgroup, shape: Shape):
    """The scores of tile number `count` of this program, and the values of the one before."""
    acc, top, total, weights = carry
    stage, phase = _slot_and_phase(count, shape.num_stages)
    v_stage, v_phase = _slot_and_phase(count - 1, shape.num_stages)
    mg.wait(refs.barriers, bars.k_full + stage, phase)

    def with_accumulators(acc_ref, scores_ref):
        acc_ref[...] = acc
        if "earlyv" in shape.variant:
            mg.wait(refs.barriers, bars.v_full + v_stage, v_phase)
        if "noturn" not in shape.variant:
            mg.take_turn(warpgroup)
        _multiply_keys(scores_ref, refs, q_tile, stage, shape)
        if "halfturn" in shape.variant:
            mg.give_turn(1 - warpgroup)
        if "earlyv" not in shape.variant:
            mg.wait(refs.barriers, bars.v_full + v_stage, v_phase)
        plgpu.wgmma(acc_ref, weights, refs.v_tiles.at[v_stage])
        if "noturn" not in shape.variant and "halfturn" not in shape.variant:
            mg.give_turn(1 - warpgroup)
        scores = plgpu.wgmma_accumulator_load(scores_ref, wait_n=1)
        mg.arrive_per_warp(refs.barriers, bars.k_free + stage)
        if is_edge:
            scores = _masked(scores, tile, work, shape)
        softmax = _softmax_step(top, total, scores, shape)
        # Else the compilers compute all of it after the wait for the matmul of values: LLVM without the barrier, and
        # the assembler where no branch is in between, as there is in this wait for what has arrived long ago.
        new_top, new_total, new_weights, rescale = softmax if "nopin" in shape.variant else lax.optimization_barrier(softmax)
        if "nopin" not in shape.variant:
            mg.wait(refs.barriers, bars.v_full + v_stage, v_phase)
        weighted = acc_ref[...]
        mg.arrive_per_warp(refs.barriers, bars.v_free + v_stage)
        weighted = weighted * lax.broadcast_in_dim(rescale, weighted.shape, (0,))
        return weighted, new_top, new_total, new_weights.astype(weights.dtype)

    shapes = (QUERY_ROWS, shape.head_dim), (QUERY_ROWS, shape.tile)
    return pl.run_scoped(with_accumulators, *(plgpu.ACC(s, jnp.float32) for s in shapes))


def _softmax_step(top: jax.Array, total: jax.Array, scores: jax.Array, shape: Shape):
    """The maximum in units of log 2, partial sums of weights, the weights, and what rescales sums of before."""
    new_top = jnp.maximum(top, _maximum(scores) * shape.log2_scale)
    weights = _weights(scores, new_top, shape)
    rescale = jnp.exp2(top - new_top)
    new_total = total * lax.broadcast_in_dim(rescale, total.shape, (0,)) + _folded(jnp.add, weights)
    return new_top, new_total, weights, rescale


def _weights(scores: jax.Array, top: jax.Array, shape: Shape) -> jax.Array:
    return jnp.exp2(scores * shape.log2_scale - lax.broadcast_in_dim(top, scores.shape, (0,)))


def _maximum(scores: jax.Array) -> jax.Array:
    return _folded(jnp.maximum, scores).max(axis=1)


def _folded(combine, x: jax.Array) -> jax.Array:
    """[rows, FOLDED] of the columns of `x`, two by two: independent instructions, where a reduction is one chain of
    them, and of a sum the reduction across threads can wait for the last tile."""
    parts = [x[:, i : i + FOLDED] for i in range(0, x.shape[1], FOLDED)]
    while len(parts) > 1:
        half = (len(parts) + 1) // 2
        combined = [combine(a, b) for a, b in zip(parts[:half], parts[half:], strict=False)]
        parts = combined + parts[len(combined) : half]
    return parts[0]


def _masked(scores: jax.Array, tile, work: Work, shape: Shape) -> jax.Array:
    def iota(axis: int) -> jax.Array:
        return plgpu.broadcasted_iota(jnp.int32, scores.shape, axis, layout=plgpu.Layout.WGMMA)

    query = lax.shift_right_logical(iota(0), jnp.int32(shape.heads.bit_length() - 1))
    is_seen = iota(1) + (tile * shape.tile - work.position) <= query
    return jnp.where(is_seen, scores, MASKED_SCORE)


def _filled(shape: tuple[int, int], value: float) -> jax.Array:
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), plgpu.Layout.WGMMA)


def _store(refs: Refs, q_tile, result: jax.Array, work: Work, shape: Shape):
    """Through the tile of the queries where all rows of the warpgroup are queries, else element by element: behind a
    row's last query follow those of the next."""
    result = result.astype(refs.out.dtype)
    is_full = work.num_queries >= shape.tokens

    @pl.when(is_full)
    def _():
        for chunk in range(shape.chunks):
            q_tile[chunk] = result[:, chunk * mg.CHUNK : (chunk + 1) * mg.CHUNK]
        plgpu.commit_smem()
        mg.store_tile(q_tile, refs.out, work.token, work.head, (shape.tokens, shape.heads))

    @pl.when(jnp.logical_not(is_full))
    def _():
        num_tokens = jnp.maximum(work.num_queries, 0)
        mg.store_rows(result, refs.out, work.token, work.head, num_tokens, shape.heads)
