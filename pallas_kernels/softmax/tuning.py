"""Blocks of the softmax kernels: tuned numbers where there are any, else a heuristic."""

import itertools
from dataclasses import dataclass

from pallas_kernels.core.device import CACHE_BYTES, THREADS_PER_WARP, VECTOR_BYTES, target_device
from pallas_kernels.core.rowwise.blocks import (
    MAX_WARPS,
    THREAD_BYTES,
    RowBlocks,
    blocks_key,
    candidate_blocks,
    heuristic_blocks,
)
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks

MAX_WHOLE_FEATURES = 32768  # of rows that a program holds in registers
MIN_SPLIT_WARPS, MAX_SPLIT_WARPS = 2, 8
PROGRAMS_PER_MULTIPROCESSOR = 2  # at least, where rows are split

softmax_key = blocks_key


@dataclass(frozen=True)
class LongBlocks:
    """`splits` programs share a row, and each reads its part twice, `chunk` features at a time.

    `evict_first` marks what is read for the last time, or written, as the first to leave the caches.
    """

    chunk: int
    splits: int
    evict_first: bool
    num_warps: int


def softmax_blocks(num_rows: int, features: int, itemsize: int) -> RowBlocks | LongBlocks:
    """Blocks for rows that a program can hold, and LongBlocks for others."""
    key = softmax_key(num_rows, features, itemsize)
    if features <= MAX_WHOLE_FEATURES:
        return tuned_blocks("softmax", "softmax", key, RowBlocks) or heuristic_blocks(
            num_rows, features, itemsize
        )
    return tuned_blocks("softmax", "softmax", key, LongBlocks) or _long_blocks(num_rows, features, itemsize)


def _long_blocks(num_rows: int, features: int, itemsize: int) -> LongBlocks:
    """One program per row where there are enough rows. It fills the registers of a multiprocessor, so that
    few rows are read at a time and the second reading finds them in the cache. Fewer rows are split over
    small programs."""
    num_multiprocessors = target_device().num_multiprocessors
    evict_first = 2 * num_rows * features * itemsize > CACHE_BYTES
    if num_rows >= num_multiprocessors:
        return LongBlocks(_chunk(MAX_WARPS, THREAD_BYTES, itemsize), 1, evict_first, MAX_WARPS)
    splits = ceil_div(PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors, num_rows)
    thread_bytes = THREAD_BYTES // 2
    part_chunks = ceil_div(features, splits * _chunk(1, thread_bytes, itemsize))
    num_warps = max(MIN_SPLIT_WARPS, min(next_power_of_two(part_chunks) // 2, MAX_SPLIT_WARPS))
    chunk = _chunk(num_warps, thread_bytes, itemsize)
    return LongBlocks(chunk, min(splits, ceil_div(features, chunk)), evict_first, num_warps)


def softmax_candidates(num_rows: int, features: int, itemsize: int) -> list[RowBlocks] | list[LongBlocks]:
    """The candidates of a tuning sweep."""
    known = softmax_blocks(num_rows, features, itemsize)
    if isinstance(known, RowBlocks):
        return candidate_blocks(known, features)
    found = [known]
    warps_tried = (8, 16, 32) if known.splits == 1 else (2, 4, 8)
    threads_tried = [vectors * VECTOR_BYTES for vectors in (1, 2, 4)]
    for num_warps, thread_bytes, more_splits, evict_first in itertools.product(
        warps_tried, threads_tried, (1, 2, 4), (False, True)
    ):
        chunk = _chunk(num_warps, thread_bytes, itemsize)
        splits = min(more_splits * ceil_div(known.splits, 2), ceil_div(features, chunk))
        found.append(LongBlocks(chunk, splits, evict_first, num_warps))
    return list(dict.fromkeys(found))


def _chunk(num_warps: int, thread_bytes: int, itemsize: int) -> int:
    return num_warps * THREADS_PER_WARP * thread_bytes // itemsize
