"""Blocks of the kernel with quantized weights: tuned numbers where there are any, else a heuristic.

Blocks count elements of an output, bytes of one weight or words of four.
"""

import itertools
from typing import NamedTuple

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key
from pallas_kernels.matmul.tuning import MatmulBlocks

FEW_ROWS = 16  # more of them fill the right side of a dot by themselves
WARPGROUP_ROWS = 64  # of the left side, that four warps multiply
MAX_DOT_COLUMNS = 64  # parts times rows of x
WARPGROUP_THREADS = 128
MAX_SUMS = 48  # of a thread of four warps, beside the products of a tile that are not scaled yet
MAX_STAGES = 6
MAX_RESIDENT = 4  # programs on a multiprocessor: one converts while others wait for their weights
FREE_ROWS = 4  # of which parts for narrow blocks fit into the smallest dot
PARTIAL_SHARE = 1 / 4
SHARED_MEMORY_BYTES = 220 * 1024  # of a multiprocessor, for all its programs
MAX_CANDIDATE_PROGRAMS = 9  # a multiprocessor


class QuantizedCall(NamedTuple):
    """The facts that the choice of blocks depends on.

    `kind` is that of the weights, `num_elements` counts an output's, and at most `max_block` of them are in a
    tile. `num_out` counts the results of a row, each of two columns where gated.
    """

    kind: str
    rows: int
    num_elements: int
    num_out: int
    element_bytes: int
    max_block: int
    is_gated: bool
    is_normalized: bool

    @property
    def num_matrices(self) -> int:
        """The gate and the others, or one."""
        return 2 if self.is_gated else 1


def quantized_key(call: QuantizedCall) -> dict[str, int | bool | str]:
    """A call's tuned entry; rows count as the power of two that holds them."""
    return tuned_key(call, rounded=["rows"])


def quantized_blocks(call: QuantizedCall) -> MatmulBlocks:
    """Narrow blocks of outputs, of which parts of the inputs fill the dot, where wide ones would leave
    multiprocessors idle; splits where that is not enough."""
    tuned = tuned_blocks("matmul", "quantized", quantized_key(call), MatmulBlocks)
    if tuned is not None:
        return tuned
    num_multiprocessors = target_device().num_multiprocessors
    widths = (64, 32, 16) if call.rows <= FEW_ROWS else (WARPGROUP_ROWS,)
    resident = MAX_RESIDENT if call.rows <= FREE_ROWS else 2
    enough = [
        width for width in widths if ceil_div(call.num_out, width) >= 0.9 * resident * num_multiprocessors
    ]
    block_out = enough[0] if enough else widths[-1]
    programs = ceil_div(call.num_out, block_out)
    # A program of many rows and four bits has enough to compute for two of them to take turns.
    is_slow = call.rows > FEW_ROWS and call.element_bytes == 2
    is_whole = call.is_normalized or (programs > num_multiprocessors / 2 and not is_slow)
    num_splits = 1 if is_whole else max(1, min(2 * num_multiprocessors // programs, _max_splits(call)))
    resident = min(resident, ceil_div(programs * num_splits, num_multiprocessors))
    return _blocks(call, block_out, WARPGROUP_ROWS, call.max_block, num_splits, MAX_STAGES, resident)


def _max_splits(call: QuantizedCall) -> int:
    """Each writes float32 sums of all rows, which are read again: so many that they are `PARTIAL_SHARE` of
    the bytes of the weights."""
    weights = call.num_elements * call.element_bytes
    return max(1, int(PARTIAL_SHARE * weights / (8 * next_power_of_two(call.rows))))


def quantized_candidates(call: QuantizedCall) -> list[MatmulBlocks]:
    """The candidates of a tuning sweep."""
    num_multiprocessors = target_device().num_multiprocessors
    found = [quantized_blocks(call)]
    widths, stages = ((16, 32, 64), (3, 6)) if call.rows <= FEW_ROWS else ((64, 128), (2, 3, 5))
    # A sweep may end early: what is likely comes first.
    for narrower, left, num_splits, num_stages, block_out in itertools.product(
        (1, 2), (64, 128), (1, 2), stages, widths
    ):
        programs = ceil_div(call.num_out, block_out) * num_splits / num_multiprocessors
        is_sensible = num_splits == 1 or (programs <= MAX_CANDIDATE_PROGRAMS and not call.is_normalized)
        blocks = _blocks(call, block_out, left, call.max_block // narrower, num_splits, num_stages)
        is_filled = blocks.dot_parts is not None and block_out * blocks.dot_parts >= WARPGROUP_ROWS
        if is_filled and is_sensible and programs >= 1 / 3:
            found.append(blocks)
    return list(dict.fromkeys(found))


def _blocks(
    call: QuantizedCall,
    block_out: int,
    left: int,
    block_in: int,
    num_splits: int,
    num_stages: int,
    resident: int = 1,
) -> MatmulBlocks:
    """`left` rows of weights a dot, of one matrix: more parts than rows of x have room for are left out. As
    many as `num_stages` that leave room for `resident` programs on a multiprocessor: one converts while
    another waits for its weights."""
    parts = max(1, min(left // block_out, MAX_DOT_COLUMNS // next_power_of_two(call.rows)))
    right = max(MIN_DOT_SIZE, parts * next_power_of_two(call.rows))
    num_sums = call.num_matrices * parts * block_out * right // WARPGROUP_THREADS
    if num_sums > 2 * MAX_SUMS:  # then also a thread of eight warps has no room for all floats of a tile
        block_in = min(block_in, call.max_block // 4)
    block_in = min(block_in, max(2 * MIN_DOT_SIZE, next_power_of_two(ceil_div(call.num_elements, parts))))
    num_splits = min(num_splits, ceil_div(call.num_elements, parts * block_in))
    # x in two bytes, for each weight of an element; and the norm's scale beside it.
    codes = 4 if call.element_bytes == 2 else 1
    of_x = 2 * codes * right * (2 if call.is_normalized else 1)
    stage_bytes = block_in * (call.element_bytes * call.num_matrices * parts * block_out + of_x)
    num_stages = max(2, min(num_stages, SHARED_MEMORY_BYTES // resident // stage_bytes))
    return MatmulBlocks(
        block_out=block_out,
        block_in=block_in,
        num_splits=num_splits,
        dot_parts=parts,
        num_warps=4 if num_sums <= MAX_SUMS and parts * block_out <= WARPGROUP_ROWS else 8,
        num_stages=num_stages,
    )
