"""Copies between global and shared memory (TMA), and the few stores that are none.

In shared memory a tile is made of core matrices of 8 rows and 128 bytes, in which 16-byte pieces are swizzled
row by row, as Hopper's matmul reads them.
"""

import math
from collections.abc import Sequence

from jax.experimental.mosaic.gpu import TileTransform, utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, nvvm, vector

from pallas_kernels.paged_attention.extend.mosaic.barriers import (
    REF,
    SCALAR,
    THREADS,
    WARPS,
    emit_barrier,
    emit_i32,
    emit_index,
    emit_one_thread,
    emit_one_thread_per_warp,
    scalar,
)
from pallas_kernels.paged_attention.extend.mosaic.shape import CHUNK

SWIZZLE_BYTES = 2 * CHUNK
TILING = (8, CHUNK)
TRANSFORMS = (plgpu.TilingTransform(TILING), plgpu.SwizzleTransform(SWIZZLE_BYTES))
TILE = plgpu.RefType(TRANSFORMS)


def start_pages(kv, tile, barriers, *, barrier, first_rows: Sequence, column, rows: int) -> None:
    """Starts copying kv[row : row + rows, column : column + head_dim], for every row of `first_rows`, into
    `tile` one below the other. `barrier` gets one arrival and the bytes. The warps take turns at starting
    copies."""

    @plgpu.inline_mgpu(arg_types=(REF, TILE, REF, SCALAR, SCALAR, *[SCALAR] * len(first_rows)))
    def copy(ctx, kv, tile, barriers, barrier, column, *first_rows):
        barrier_ref = emit_barrier(barriers, barrier)
        height, chunks, *core = ir.MemRefType(tile.type).shape
        num_bytes = math.prod((height, chunks, *core)) * 2
        barrier_ref.arrive_expect_tx(num_bytes, predicate=emit_one_thread())
        warp = arith.remui(utils.warp_idx(), emit_i32(WARPS))
        elected = emit_one_thread_per_warp()
        for i, row in enumerate(first_rows):
            is_mine = arith.cmpi(arith.CmpIPredicate.eq, warp, emit_i32(i % WARPS))
            ctx.async_copy(
                src_ref=kv,
                dst_ref=utils.memref_slice(tile, (utils.ds(i * rows // 8, rows // 8),)),
                gmem_slice=(utils.ds(emit_index(row), rows), utils.ds(emit_index(column), chunks * CHUNK)),
                gmem_transform=TileTransform(TILING),
                swizzle=SWIZZLE_BYTES,
                barrier=barrier_ref,
                arrive=False,
                predicate=arith.andi(elected, is_mine),
            )

    copy(kv, tile, barriers, scalar(barrier), scalar(column), *map(scalar, first_rows))


def start_queries(q, tile, barriers, *, barrier, token, head, shape: tuple[int, int]) -> None:
    """Starts copying q[token : token + tokens, head : head + heads] into `tile` [chunks, warpgroups, rows,
    CHUNK].

    Tokens beyond the array's end come as zeros. `barrier` gets one arrival and the bytes.
    """
    tokens, heads = shape

    @plgpu.inline_mgpu(arg_types=(REF, TILE, REF, SCALAR, SCALAR, SCALAR))
    def copy(ctx, q, tile, barriers, barrier, token, head):
        barrier_ref = emit_barrier(barriers, barrier)
        leader = emit_one_thread()
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

    copy(q, tile, barriers, scalar(barrier), scalar(token), scalar(head))


def start_store(tile, out, *, token, head, shape: tuple[int, int]) -> None:
    """Starts copying `tile`, which the warpgroup has committed, to out[token : token + tokens, head : head +
    heads]."""

    @plgpu.inline_mgpu(arg_types=(TILE, REF, SCALAR, SCALAR))
    def store(ctx, tile, out, token, head):
        leader = emit_one_thread()
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

    store(tile, out, scalar(token), scalar(head))


def _rows_of_chunk(tile, chunk: int, shape: tuple[int, int]):
    """The part of a tile [chunks, ..., CHUNK] that holds `chunk`, as [tokens, heads, CHUNK]: its core
    matrices follow one another, so that its rows do."""
    part = utils.memref_slice(tile, chunk)
    return utils.memref_reshape(part, (*shape, CHUNK))


def _slice_of_queries(token, head, chunk: int, shape: tuple[int, int]):
    tokens, heads = shape
    return (
        utils.ds(emit_index(token), tokens),
        utils.ds(emit_index(head), heads),
        utils.ds(chunk * CHUNK, CHUNK),
    )


def store_rows(values, out, *, token, head, num_tokens, heads: int) -> None:
    """out[token + r // heads, head + r % heads] = values[r], for the rows r of the first `num_tokens` tokens.

    Two elements at a time, by predicated instructions: as many branches would take the compiler a quarter of
    its time.
    """

    @plgpu.inline_mgpu(arg_types=(plgpu.Layout.WGMMA, REF, SCALAR, SCALAR, SCALAR))
    def store(ctx, values, out, token, head, num_tokens):
        index = ir.IndexType.get()
        _, num_heads, head_dim = ir.MemRefType(out.type).shape
        heads_, token_stride, head_stride = (
            utils.c(n, index) for n in (heads, num_heads * head_dim, head_dim)
        )

        def offset(token, head):
            return arith.addi(arith.muli(token, token_stride), arith.muli(head, head_stride))

        first = offset(emit_index(token), emit_index(head))
        limit = arith.muli(emit_index(num_tokens), heads_)
        base = utils.memref_ptr(out)
        i32 = ir.IntegerType.get_signless(32)
        i64 = ir.IntegerType.get_signless(64)
        for (row, column), pair in zip(
            values.layout.thread_idxs(values.shape), values.registers.flat, strict=True
        ):
            of_row = offset(arith.divui(row, heads_), arith.remui(row, heads_))
            element = arith.addi(arith.addi(first, of_row), column)
            address = utils.getelementptr(base, [arith.index_cast(i64, element)], values.mlir_dtype)
            is_query = arith.cmpi(arith.CmpIPredicate.ult, row, limit)
            utils.inline_ptx(
                "st.global.b32 [$0], $1;",
                address,
                utils.bitcast(pair, i32),
                predicate=is_query,
                has_side_effects=True,
            )

    store(values, out, scalar(token), scalar(head), scalar(num_tokens))


def zero_rows(tile, first_row) -> None:
    """Writes zeros over the rows of `tile` [rows, head_dim] from `first_row` on, and makes matmuls see them.

    A row's swizzle permutes it within its chunks, and so does not matter here.
    """

    @plgpu.inline_mgpu(arg_types=(TILE, SCALAR))
    def zero(ctx, tile, first_row):
        height, chunks, core_rows, width = ir.MemRefType(tile.type).shape
        element = ir.MemRefType(tile.type).element_type
        index = ir.IndexType.get()
        vector_type = ir.VectorType.get((8,), element)
        zeros = arith.constant(
            vector_type, ir.DenseElementsAttr.get_splat(vector_type, ir.FloatAttr.get(element, 0.0))
        )
        thread = arith.index_cast(index, arith.remui(utils.thread_idx(), emit_i32(THREADS)))
        for offset in range(0, height * core_rows, THREADS):
            row = arith.addi(thread, utils.c(offset, index))
            is_tail = arith.cmpi(arith.CmpIPredicate.uge, row, emit_index(first_row))
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

    zero(tile, scalar(first_row))
