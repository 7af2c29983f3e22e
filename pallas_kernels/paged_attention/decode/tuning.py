"""Blocks of decode."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key
from pallas_kernels.paged_attention.tuning import attention_facts, values_itemsize

# One can compute while the other waits; with more splits there is more to merge.
PROGRAMS_PER_MULTIPROCESSOR = 2
ENOUGH = 0.9  # of that many programs, and no row need be split for more
# So many more than are resident that rows of mixed lengths leave no multiprocessor idle.
IN_LINE_PER_MULTIPROCESSOR = 4.5
# Of so many, four are resident with tiles of two stages; else three, of three.
LONG_LINE_PER_MULTIPROCESSOR = 7.0
COLUMNS = 64  # (position, KV head) pairs a tile
MAX_KV_HEADS = 4  # a program: pieces of 1 KiB are long enough to read, and more heads cost registers
MAX_SPLITS = 256
SHARED_MEMORY_BYTES = 220 * 1024  # of a multiprocessor, for all its programs
STAGING_BYTES = 6 * 1024  # what Triton takes besides the tiles
# Columns and pipeline stages.
SMALLER_TILES = (
    (COLUMNS, 3),
    (COLUMNS, 2),
    (COLUMNS // 2, 2),
    (COLUMNS // 4, 2),
)


@dataclass(frozen=True)
class DecodeBlocks:
    """A program serves `kv_heads` heads of one row, reads `tile` positions of each per iteration, and shares
    the row with `num_splits` - 1 others."""

    kv_heads: int
    tile: int
    num_splits: int
    num_warps: int
    num_stages: int


class DecodeCall(NamedTuple):
    """The facts that the choice of blocks depends on. `max_positions` is what a row's page table can hold;
    `quantized` is the dtype of a cache whose values have scales."""

    rows: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    max_positions: int
    itemsize: int
    quantized: str | None = None

    @classmethod
    def of(cls, q: Array | jax.ShapeDtypeStruct, kv_pages: AnyKVPages, page_table: Array) -> "DecodeCall":
        """The call with these arguments of `decode`."""
        return cls(rows=q.shape[0], **attention_facts(q, kv_pages, page_table))

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads


def decode_blocks(call: DecodeCall) -> DecodeBlocks:
    """Tuned numbers where there are any, else a heuristic.

    Of many rows, a program has as many KV heads, whose reads are longer, as leave more programs than can be
    resident at once: rows have different lengths, and the next in line starts where a short one ends. Callers
    whose longest rows come first gain most. On an H200, 256 rows to 97 of the benchmark `mixed256`, 8 KV
    heads: 3.8 to 4.0 TB/s in that order, where all programs resident at once reached 3.3 to 3.6. 256 equal
    rows of 576 take 4% longer.

    Of few rows it has one KV head. Rows are left whole if that fills the machine, for what is not split need
    not be merged, and otherwise split into as few parts as do. Long rows gain from more KV heads a program;
    that is for tuned numbers to say, since a page table tells how long rows may be and not how long they are.
    """
    found = tuned_blocks("paged_attention", "decode", decode_key(call), DecodeBlocks)
    if found is not None:
        return found
    num_multiprocessors = target_device().num_multiprocessors
    packed = min(MAX_KV_HEADS, packed_kv_heads(call, MIN_DOT_SIZE))
    choices = [1 << i for i in range(packed.bit_length())]  # 1, 2, 4
    programs = {kv_heads: call.rows * ceil_div(call.num_kv_heads, kv_heads) for kv_heads in choices}
    in_line = [n for n in choices if programs[n] >= IN_LINE_PER_MULTIPROCESSOR * num_multiprocessors]
    kv_heads = in_line[-1] if in_line else 1
    wanted = num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR
    max_splits = min(MAX_SPLITS, ceil_div(call.max_positions, COLUMNS))
    is_enough = programs[kv_heads] >= ENOUGH * wanted
    num_splits = 1 if is_enough else max(1, min(wanted // programs[kv_heads], max_splits))
    num_programs = programs[kv_heads] * num_splits / num_multiprocessors
    if in_line:
        num_programs = 4 if num_programs >= LONG_LINE_PER_MULTIPROCESSOR else 3
    return _resident(kv_heads, num_splits, num_programs, call)


def _resident(kv_heads: int, num_splits: int, programs: float, call: DecodeCall) -> DecodeBlocks:
    """The largest tiles with which that many programs fit on a multiprocessor; the first that fit once, if
    none do."""
    tiles, num_warps = _tiles_and_warps(kv_heads, call)
    for room in (SHARED_MEMORY_BYTES / max(1, math.ceil(programs)), SHARED_MEMORY_BYTES):
        for columns, num_stages in tiles:
            if _tiles_bytes(columns, num_stages, call) + STAGING_BYTES <= room:
                return DecodeBlocks(kv_heads, max(1, columns // kv_heads), num_splits, num_warps, num_stages)
    return DecodeBlocks(kv_heads, max(1, MIN_DOT_SIZE // kv_heads), num_splits, num_warps, num_stages=2)


def _tiles_and_warps(kv_heads: int, call: DecodeCall) -> tuple[tuple[tuple[int, int], ...], int]:
    """The choice of tiles, and the warps of a program.

    A float32 dot is done outside of tensor cores, with both operands in registers, where values of 8 bits are
    converted as well.
    """
    if call.itemsize <= 2:
        return SMALLER_TILES, 4
    if call.quantized is not None:
        return SMALLER_TILES[-1:], 8
    return SMALLER_TILES[-2:], 8 if kv_heads * call.group > 32 else 4


def _tiles_bytes(columns: int, num_stages: int, call: DecodeCall) -> int:
    """Keys and values in shared memory; of 8 bits, the values of a tile once more as they are multiplied."""
    padded_dim = next_power_of_two(call.head_dim)
    converted = 0 if call.quantized is None else columns * padded_dim * call.itemsize
    itemsize = values_itemsize(call.itemsize, call.quantized)
    return 2 * (num_stages - 1) * columns * padded_dim * itemsize + converted


def decode_key(call: DecodeCall) -> dict[str, Any]:
    """A call's tuned entry; rows and positions count as the power of two that holds them."""
    return tuned_key(call, rounded=["rows", "max_positions"])


def decode_candidates(call: DecodeCall) -> list[DecodeBlocks]:
    """The candidates of a sweep: dots of up to 32 query rows, and splits that fill the machine once to four
    times."""
    num_multiprocessors = target_device().num_multiprocessors
    kv_head_choices = {packed_kv_heads(call, query_rows) for query_rows in (1, 8, 16, 32)}
    column_choices = (32, 64) if call.quantized is None else (32, 64, 128)  # 128 have the bytes of 64
    candidates = []
    for kv_heads, columns, waves in itertools.product(sorted(kv_head_choices), column_choices, (1, 2, 3, 4)):
        unsplit = call.rows * ceil_div(call.num_kv_heads, kv_heads)
        max_splits = min(MAX_SPLITS, ceil_div(call.max_positions, 32))
        num_splits = max(1, min(max_splits, num_multiprocessors * waves // unsplit))
        for num_warps, num_stages in ((2, 3), (4, 2), (4, 3), (4, 4)):
            tile = max(1, columns // kv_heads)
            candidates.append(DecodeBlocks(kv_heads, tile, num_splits, num_warps, num_stages))
    return list(dict.fromkeys(candidates))


def packed_kv_heads(call: DecodeCall, query_rows: int) -> int:
    """The KV heads, a power of two and at least 1, whose query heads take at most `query_rows` rows of a
    dot."""
    kv_heads = 1
    while 2 * kv_heads * call.group <= query_rows and 2 * kv_heads <= next_power_of_two(call.num_kv_heads):
        kv_heads *= 2
    return kv_heads
