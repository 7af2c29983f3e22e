"""What the kernel says below Pallas: barriers that count warps, copies through a page table, stores of part of a tile.

Pallas' own barrier counts every thread of a warpgroup, once per copy. A tile of keys arrives in as many copies as it
has pages, so that would be 1,000 arrivals; here one thread announces the bytes of all of them, and consumers arrive
once per warp. Each function emits its instructions through `plgpu.inline_mgpu`; scalars come as Pallas scalars.

A phase is the parity of how often a barrier has completed, which callers know from what they count anyway.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.experimental.mosaic.gpu import TileTransform, utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, memref, nvvm, vector

SWIZZLE_BYTES = 128
CHUNK = SWIZZLE_BYTES // 2  # 16-bit elements of a row that are contiguous in shared memory
TILING = (8, CHUNK)  # the core matrices of Hopper's matmul
TRANSFORMS = (plgpu.TilingTransform(TILING), plgpu.SwizzleTransform(SWIZZLE_BYTES))
WARPS = 4  # of a warpgroup
THREADS = 32 * WARPS
TURN_BARRIER = 8  # the first of two named barriers; Mosaic uses 0, and 1 up to the number of warpgroups

PLAIN, TILED, SCALAR = plgpu.RefType(), plgpu.RefType(TRANSFORMS), plgpu.Layout.WG_SPLAT(())


def _inline(*arg_types):
    return plgpu.inline_mgpu(arg_types=arg_types)


def _value(scalar):
    return scalar.registers.flat[0]


def _index(scalar):
    return arith.index_cast(ir.IndexType.get(), _value(scalar))


def _i32(number: int):
    return utils.c(number, ir.IntegerType.get_signless(32))


def _barrier(barriers, index) -> utils.BarrierRef:
    """The barrier at `index` (a scalar or an int) of `barriers`, 8 bytes of shared memory each."""
    offset = _i32(index) if isinstance(index, int) else _value(index)
    return utils.BarrierRef(utils.memref_ptr(barriers), offset, None, 1)


def _one_thread():
    return utils.single_thread_predicate(utils.ThreadSubset.WARPGROUP)


def _one_thread_per_warp():
    return utils.single_thread_predicate(utils.ThreadSubset.WARP)


def init_barriers(barriers, arrivals: Sequence[int]) -> None:
    """Barrier i completes after arrivals[i] arrivals. All warpgroups call it, and leave it together."""

    @_inline(PLAIN)
    def init(ctx, barriers):
        one_thread = utils.single_thread_predicate(utils.ThreadSubset.BLOCK)
        for i, count in enumerate(arrivals):
            nvvm.mbarrier_init(_barrier(barriers, i).get_ptr(), _i32(count), predicate=one_thread)
        utils.inline_ptx("fence.mbarrier_init.release.cluster;", has_side_effects=True)
        utils.inline_ptx("bar.sync 0;", has_side_effects=True)

    init(barriers)


def wait(barriers, index, phase) -> None:
    """Waits for the end of `phase` (0 or 1); a barrier that has not completed yet counts as past phase 1."""

    @_inline(PLAIN, SCALAR, SCALAR)
    def wait_(ctx, barriers, index, phase):
        odd = arith.trunci(ir.IntegerType.get_signless(1), _value(phase))
        _barrier(barriers, index).wait_parity(odd)

    wait_(barriers, _scalar(index), _scalar(phase))


def arrive_once(barriers, index) -> None:
    """One arrival of the whole warpgroup, which the caller has synchronized."""

    @_inline(PLAIN, SCALAR)
    def arrive(ctx, barriers, index):
        _barrier(barriers, index).arrive(predicate=_one_thread())

    arrive(barriers, _scalar(index))


def arrive_per_warp(barriers, index) -> None:
    """WARPS arrivals of the warpgroup, each when its warp gets there."""

    @_inline(PLAIN, SCALAR)
    def arrive(ctx, barriers, index):
        utils.warp_barrier()
        _barrier(barriers, index).arrive(predicate=_one_thread_per_warp())

    arrive(barriers, _scalar(index))


def take_turn(mine) -> None:
    """Waits until the other of two warpgroups has called `give_turn` once more than this one took its turn."""

    @_inline(SCALAR)
    def take(ctx, mine):
        utils.inline_ptx(f"bar.sync $0, {2 * THREADS};", _turn(mine), has_side_effects=True)

    take(_scalar(mine))


def give_turn(other) -> None:
    @_inline(SCALAR)
    def give(ctx, other):
        utils.inline_ptx(f"bar.arrive $0, {2 * THREADS};", _turn(other), has_side_effects=True)

    give(_scalar(other))


def _turn(warpgroup):
    return arith.addi(_value(warpgroup), _i32(TURN_BARRIER))


def copy_pages(kv, tile, barriers, barrier, first_rows: Sequence, column, rows: int) -> None:
    """Starts copying kv[row : row + rows, column : column + head_dim], for every row of `first_rows`, into `tile` one
    below the other. `barrier` gets one arrival and the bytes. The warps take turns at starting copies."""

    @_inline(PLAIN, TILED, PLAIN, SCALAR, SCALAR, *[SCALAR] * len(first_rows))
    def copy(ctx, kv, tile, barriers, barrier, column, *first_rows):
        barrier_ref = _barrier(barriers, barrier)
        height, chunks, *core = ir.MemRefType(tile.type).shape
        num_bytes = math.prod((height, chunks, *core)) * 2
        barrier_ref.arrive_expect_tx(num_bytes, predicate=_one_thread())
        warp = arith.remui(utils.warp_idx(), _i32(WARPS))
        elected = _one_thread_per_warp()
        for i, row in enumerate(first_rows):
            is_mine = arith.cmpi(arith.CmpIPredicate.eq, warp, _i32(i % WARPS))
            ctx.async_copy(
                src_ref=kv,
                dst_ref=utils.memref_slice(tile, (utils.ds(i * rows // 8, rows // 8),)),
                gmem_slice=(utils.ds(_index(row), rows), utils.ds(_index(column), chunks * CHUNK)),
                gmem_transform=TileTransform(TILING),
                swizzle=SWIZZLE_BYTES,
                barrier=barrier_ref,
                arrive=False,
                predicate=arith.andi(elected, is_mine),
            )

    copy(kv, tile, barriers, _scalar(barrier), _scalar(column), *map(_scalar, first_rows))


def copy_queries(q, tile, barriers, barrier, token, head, shape: tuple[int, int]) -> None:
    """Starts copying q[token : token + tokens, head : head + heads] into `tile` [chunks, warpgroups, rows, CHUNK].

    Tokens beyond the array's end come as zeros. `barrier` gets one arrival and the bytes.
    """
    tokens, heads = shape

    @_inline(PLAIN, TILED, PLAIN, SCALAR, SCALAR, SCALAR)
    def copy(ctx, q, tile, barriers, barrier, token, head):
        barrier_ref, leader = _barrier(barriers, barrier), _one_thread()
        chunks = ir.MemRefType(tile.type).shape[0]
        barrier_ref.arrive_expect_tx(chunks * tokens * heads * SWIZZLE_BYTES, predicate=leader)
        for i in range(chunks):
            ctx.async_copy(
                src_ref=q,
                dst_ref=_rows_of_chunk(tile, i, shape),
                gmem_slice=_slice_of_queries(token, head, i, shape),
                swizzle=SWIZZLE_BYTES,
                barrier=barrier_ref,
                arrive=False,
                predicate=leader,
            )

    copy(q, tile, barriers, _scalar(barrier), _scalar(token), _scalar(head))


def store_tile(tile, out, token, head, shape: tuple[int, int]) -> None:
    """Starts copying `tile`, which the warpgroup has committed, to out[token : token + tokens, head : head + heads]."""

    @_inline(TILED, PLAIN, SCALAR, SCALAR)
    def store(ctx, tile, out, token, head):
        leader = _one_thread()
        for i in range(ir.MemRefType(tile.type).shape[0]):
            ctx.async_copy(
                src_ref=_rows_of_chunk(tile, i, shape),
                dst_ref=out,
                gmem_slice=_slice_of_queries(token, head, i, shape),
                swizzle=SWIZZLE_BYTES,
                arrive=False,
                predicate=leader,
            )
        nvvm.cp_async_bulk_commit_group()

    store(tile, out, _scalar(token), _scalar(head))


def _rows_of_chunk(tile, chunk: int, shape: tuple[int, int]):
    """The part of a tile [chunks, ..., CHUNK] that holds `chunk`, as [tokens, heads, CHUNK]: its core matrices follow
    one another, so that its rows do."""
    part = utils.memref_slice(tile, chunk)
    return utils.memref_reshape(part, (*shape, CHUNK))


def _slice_of_queries(token, head, chunk: int, shape: tuple[int, int]):
    tokens, heads = shape
    return utils.ds(_index(token), tokens), utils.ds(_index(head), heads), utils.ds(chunk * CHUNK, CHUNK)


def store_rows(values, out, token, head, num_tokens, heads: int) -> None:
    """out[token + r // heads, head + r % heads] = values[r], for the rows r of the first `num_tokens` tokens."""

    @_inline(plgpu.Layout.WGMMA, PLAIN, SCALAR, SCALAR, SCALAR)
    def store(ctx, values, out, token, head, num_tokens):
        index = ir.IndexType.get()
        heads_ = utils.c(heads, index)
        limit = arith.muli(_index(num_tokens), heads_)

        def store_element(value, position):
            row, column = position
            with utils.when(arith.cmpi(arith.CmpIPredicate.ult, row, limit)):
                at_token = arith.addi(_index(token), arith.divui(row, heads_))
                at_head = arith.addi(_index(head), arith.remui(row, heads_))
                memref.store(value, out, [at_token, at_head, column])

        values.foreach(store_element)

    store(values, out, _scalar(token), _scalar(head), _scalar(num_tokens))


def zero_rows(tile, first_row) -> None:
    """Writes zeros over the rows of `tile` [rows, head_dim] from `first_row` on, and makes matmuls see them.

    A row's swizzle permutes it within its chunks, and so does not matter here.
    """

    @_inline(TILED, SCALAR)
    def zero(ctx, tile, first_row):
        height, chunks, core_rows, width = ir.MemRefType(tile.type).shape
        element = ir.MemRefType(tile.type).element_type
        index = ir.IndexType.get()
        vector_type = ir.VectorType.get((8,), element)
        zeros = arith.constant(vector_type, ir.DenseElementsAttr.get_splat(vector_type, ir.FloatAttr.get(element, 0.0)))
        thread = arith.index_cast(index, arith.remui(utils.thread_idx(), _i32(THREADS)))
        for offset in range(0, height * core_rows, THREADS):
            row = arith.addi(thread, utils.c(offset, index))
            is_tail = arith.cmpi(arith.CmpIPredicate.uge, row, _index(first_row))
            if height * core_rows < offset + THREADS:
                inside = arith.cmpi(arith.CmpIPredicate.ult, row, utils.c(height * core_rows, index))
                is_tail = arith.andi(is_tail, inside)
            with utils.when(is_tail):
                core, row_in_core = (op(row, utils.c(core_rows, index)) for op in (arith.divui, arith.remui))
                for chunk in range(chunks):
                    for column in range(0, width, 8):
                        where = [core, utils.c(chunk, index), row_in_core, utils.c(column, index)]
                        vector.store(zeros, tile, where)
        utils.commit_shared()

    zero(tile, _scalar(first_row))


def _scalar(x):
    return jnp.asarray(x, jnp.int32)
