"""Tiles in 8 bits to the tiles in 16 bits that Hopper's matmul reads, by one warpgroup.

A thread takes 8 elements of a row at a time, which become 16 bytes: those of 8 threads side by side are in
different banks of shared memory, and so is what they read. A vector is its values times its scale, in
float32, and rounded once.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jax.experimental.mosaic.gpu import utils
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, llvm

from pallas_kernels.paged_attention.extend.mosaic.barriers import (
    REF,
    SCALAR,
    THREADS,
    emit_i32,
    emit_value,
    scalar,
)
from pallas_kernels.paged_attention.extend.mosaic.copies import SCALE_BYTES, TILE
from pallas_kernels.paged_attention.extend.mosaic.shape import CHUNK, Shape

ROWS_AT_ONCE = 16
ELEMENTS = 8  # that a thread converts at a time
CORE_ROWS = 8  # of a core matrix, whose 16-byte pieces are permuted row by row
# Two of the bytes $1, times the scale $2. An int8 x is the float 32768 + (128 + x), whose bits are 0x4700
# followed by those of x, their sign turned, and a zero byte; it is multiplied and 32896 times the scale taken
# off in one instruction.
INT8_PAIR = """{{
    .reg .b32 biased, low, high;
    .reg .f32 x, y, offset;
    xor.b32 biased, $1, 0x80808080;
    prmt.b32 low, biased, 0x4700, {bytes[0]};
    prmt.b32 high, biased, 0x4700, {bytes[1]};
    mov.b32 x, low;
    mov.b32 y, high;
    mul.rn.f32 offset, $2, 0fC7008000;
    fma.rn.f32 x, x, $2, offset;
    fma.rn.f32 y, y, $2, offset;
    cvt.rn.{result}x2.f32 $0, y, x;
}}"""
E4M3_PAIR = """{{
    .reg .b16 pair<2>, low, high;
    .reg .b32 both;
    .reg .f32 x, y;
    mov.b32 {{pair0, pair1}}, $1;
    cvt.rn.f16x2.e4m3x2 both, pair{bytes};
    mov.b32 {{low, high}}, both;
    cvt.f32.f16 x, low;
    cvt.f32.f16 y, high;
    mul.rn.f32 x, x, $2;
    mul.rn.f32 y, y, $2;
    cvt.rn.{result}x2.f32 $0, y, x;
}}"""
RESULTS = {jnp.dtype(jnp.bfloat16): "bf16", jnp.dtype(jnp.float16): "f16"}
PAIRS: Mapping[jnp.dtype, tuple[str, list]] = {
    jnp.dtype(jnp.int8): (INT8_PAIR, [("0x5404", "0x5414"), ("0x5424", "0x5434")]),
    jnp.dtype(jnp.float8_e4m3fn): (E4M3_PAIR, [0, 1]),
}
"""The instructions for two of four bytes, and how they name the first two and the others."""


def convert_rows(staged, scales, tile, first_row, num_rows, shape: Shape) -> None:
    """The rows from `first_row` on, ROWS_AT_ONCE of them, of `staged` [tile, head_dim] times their scales
    into `tile`; zeros from `num_rows` on. All loads are on their way before the first is used."""
    asm, pairs = PAIRS[jnp.dtype(staged.dtype)]
    pairs = [asm.format(bytes=names, result=RESULTS[jnp.dtype(tile.dtype)]) for names in pairs]
    pieces = shape.head_dim // ELEMENTS
    rows = range(0, ROWS_AT_ONCE, THREADS // pieces)

    @plgpu.inline_mgpu(arg_types=(REF, REF, TILE, SCALAR, SCALAR))
    def convert(ctx, staged, scales, tile, first_row, num_rows):
        thread = arith.remui(utils.thread_idx(), emit_i32(THREADS))
        row_of_thread, piece = (op(thread, emit_i32(pieces)) for op in (arith.divui, arith.remui))
        first, num_rows = _add(emit_value(first_row), row_of_thread), emit_value(num_rows)
        source = _add(_address(staged), _times(first, shape.head_dim), _times(piece, ELEMENTS))
        scales = _add(_address(scales), _times(first, SCALE_BYTES))
        target = _add(_address(tile), _offset_in_tile(row_of_thread, piece, shape))
        target = _add(target, _times(emit_value(first_row), 2 * shape.head_dim))
        loaded = [
            (_load_scale(scales, row * SCALE_BYTES), _load_words(source, row * shape.head_dim))
            for row in rows
        ]
        for row, (scale, words) in zip(rows, loaded, strict=True):
            is_inside = arith.cmpi(arith.CmpIPredicate.slt, _add(first, emit_i32(row)), num_rows)
            scale = arith.select(is_inside, scale, _f32(0.0))
            inside = [arith.select(is_inside, word, emit_i32(0)) for word in words]
            _store_words(target, 2 * row * shape.head_dim, _converted(inside, scale, pairs))

    convert(staged, scales, tile, scalar(first_row), scalar(num_rows))


def commit() -> None:
    """Lets matmuls see what the warpgroup has stored, when all of its threads have come here; they have read
    the staged tile, which may be overwritten."""

    @plgpu.inline_mgpu()
    def commit_(ctx):
        utils.commit_shared()

    commit_()


def _converted(words: list, scale, pairs: list[str]) -> list:
    i32 = emit_i32(0).type
    return [utils.inline_ptx(pair, word, scale, result_types=i32) for word in words for pair in pairs]


def _offset_in_tile(row, piece, shape: Shape):
    """The bytes before a thread's first piece in a tile of core matrices [rows / 8, chunks, 8, CHUNK]."""
    in_chunk = CHUNK // ELEMENTS
    core, core_row = (op(row, emit_i32(CORE_ROWS)) for op in (arith.divui, arith.remui))
    chunk, place = (op(piece, emit_i32(in_chunk)) for op in (arith.divui, arith.remui))
    chunk_bytes = CORE_ROWS * CHUNK * 2
    return _add(
        _times(core, shape.chunks * chunk_bytes),
        _times(chunk, chunk_bytes),
        _times(core_row, CHUNK * 2),
        _times(arith.xori(place, core_row), ELEMENTS * 2),
    )


def _load_words(base, offset: int) -> tuple:
    asm = "ld.shared.v2.b32 {$0, $1}, [$2];"
    i32 = emit_i32(0).type
    return utils.inline_ptx(asm, _add(base, emit_i32(offset)), result_types=(i32, i32), has_side_effects=True)


def _load_scale(base, offset: int):
    asm = "ld.shared.f32 $0, [$1];"
    f32 = ir.F32Type.get()
    return utils.inline_ptx(asm, _add(base, emit_i32(offset)), result_types=f32, has_side_effects=True)


def _store_words(base, offset: int, words: list) -> None:
    asm = "st.shared.v4.b32 [$0], {$1, $2, $3, $4};"
    utils.inline_ptx(asm, _add(base, emit_i32(offset)), *words, has_side_effects=True)


def _address(ref):
    """The address of an array in shared memory."""
    return llvm.ptrtoint(emit_i32(0).type, utils.memref_ptr(ref))


def _add(first, *others):
    for other in others:
        first = arith.addi(first, other)
    return first


def _times(value, factor: int):
    return arith.muli(value, emit_i32(factor))


def _f32(number: float):
    return arith.constant(ir.F32Type.get(), ir.FloatAttr.get(ir.F32Type.get(), number))
