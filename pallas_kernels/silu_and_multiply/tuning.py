"""Blocks of the SiLU-and-multiply kernel: tuned numbers where there are any, else a heuristic."""

import itertools
from dataclasses import dataclass

from pallas_kernels.core.device import CACHE_BYTES, THREADS_PER_WARP, VECTOR_BYTES, target_device
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks


@dataclass(frozen=True)
class SiluBlocks:
    """A program computes `elements` elements. `evict_first` marks them as the first to leave the caches."""

    elements: int
    evict_first: bool
    num_warps: int


def silu_and_multiply_key(num_rows: int, hidden: int, itemsize: int) -> dict[str, int | str]:
    """The facts that the choice depends on."""
    return {"rows": next_power_of_two(num_rows), "hidden": hidden, "itemsize": itemsize}


def silu_and_multiply_blocks(num_rows: int, hidden: int, itemsize: int) -> SiluBlocks:
    """Two vectors of the result a thread, or one where that leaves multiprocessors idle."""
    key = silu_and_multiply_key(num_rows, hidden, itemsize)
    tuned = tuned_blocks("silu_and_multiply", "silu_and_multiply", key, SiluBlocks)
    if tuned is not None:
        return tuned
    evict_first = 3 * num_rows * hidden * itemsize > CACHE_BYTES
    blocks = _blocks(2, 4, evict_first, itemsize)
    is_enough = ceil_div(num_rows * hidden, blocks.elements) >= 2 * target_device().num_multiprocessors
    return blocks if is_enough else _blocks(1, 2, evict_first, itemsize)


def silu_and_multiply_candidates(num_rows: int, hidden: int, itemsize: int) -> list[SiluBlocks]:
    """The candidates of a tuning sweep."""
    choices = itertools.product((1, 2, 4, 8), (1, 2, 4, 8, 16), (False, True))
    heuristic = silu_and_multiply_blocks(num_rows, hidden, itemsize)
    return list(dict.fromkeys([heuristic, *(_blocks(*choice, itemsize) for choice in choices)]))


def _blocks(thread_vectors: int, num_warps: int, evict_first: bool, itemsize: int) -> SiluBlocks:
    elements = thread_vectors * (VECTOR_BYTES // itemsize) * num_warps * THREADS_PER_WARP
    return SiluBlocks(elements, evict_first, num_warps)
