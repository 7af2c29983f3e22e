"""Blocks of the kernel with quantized weights: tuned numbers where there are any, else a heuristic.

Blocks count bytes of an output, each of one weight or of two.
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
MAX_BYTES = 128  # of an output in a tile, a line of the caches
MAX_STAGES = 6
SHARED_MEMORY_BYTES = 220 * 1024  # of a multiprocessor, for all its programs
MAX_CANDIDATE_PROGRAMS = 9  # a multiprocessor


class QuantizedCall(NamedTuple):
    """The facts that the choice of blocks depends on.

    `kind` is that of the weights, and `num_bytes` counts an output's. `group_bytes` share a scale, and are 0
    where all do. `num_out` counts the results of a row, each of two columns where gated.
    """

    kind: str
    rows: int
    num_bytes: int
    num_out: int
    group_bytes: int
    is_gated: bool
    is_normalized: bool

    @property
    def num_matrices(self) -> int:
        """The gate and the others, or one."""
        return 2 if self.is_gated else 1

    @property
    def max_block_bytes(self) -> int:
        """The bytes that may be in a tile: all weights of an output in it share a scale."""
        return min(MAX_BYTES, self.group_bytes or MAX_BYTES)


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
    narrowest = 16 if call.rows <= FEW_ROWS else WARPGROUP_ROWS
    widths = [width for width in (64, 32, 16) if width >= narrowest]
    enough = [width for width in widths if ceil_div(call.num_out, width) >= num_multiprocessors]
    block_out = enough[0] if enough else narrowest
    programs = ceil_div(call.num_out, block_out)
    wanted = 1 if call.is_normalized else max(1, num_multiprocessors // programs)
    resident = 1 if programs * wanted <= num_multiprocessors else 2
    return _blocks(call, block_out, WARPGROUP_ROWS, MAX_BYTES, wanted, MAX_STAGES, resident)


def quantized_candidates(call: QuantizedCall) -> list[MatmulBlocks]:
    """The candidates of a tuning sweep."""
    num_multiprocessors = target_device().num_multiprocessors
    found = [quantized_blocks(call)]
    widths, stages = ((16, 32, 64), (3, 6)) if call.rows <= FEW_ROWS else ((64, 128), (2, 3, 5))
    # A sweep may end early: what is likely comes first.
    for num_bytes, left, num_splits, num_stages, block_out in itertools.product(
        (128, 64), (64, 128), (1, 2), stages, widths
    ):
        programs = ceil_div(call.num_out, block_out) * num_splits / num_multiprocessors
        is_sensible = num_splits == 1 or (programs <= MAX_CANDIDATE_PROGRAMS and not call.is_normalized)
        blocks = _blocks(call, block_out, left, num_bytes, num_splits, num_stages)
        is_filled = blocks.dot_parts is not None and block_out * blocks.dot_parts >= WARPGROUP_ROWS
        if is_filled and is_sensible and programs >= 1 / 3:
            found.append(blocks)
    return list(dict.fromkeys(found))


def _blocks(
    call: QuantizedCall,
    block_out: int,
    left: int,
    num_bytes: int,
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
    block_in = min(num_bytes, call.max_block_bytes)
    if num_sums > 2 * MAX_SUMS:  # then also a thread of eight warps has no room for all floats of a tile
        block_in = min(block_in, MAX_BYTES // 4)
    block_in = min(block_in, max(2 * MIN_DOT_SIZE, next_power_of_two(ceil_div(call.num_bytes, parts))))
    num_splits = min(num_splits, ceil_div(call.num_bytes, parts * block_in))
    # x in two bytes, also for the second weight of a byte; and the norm's scale beside it.
    copies_of_x = 4 * (2 if call.is_normalized else 1)
    stage_bytes = block_in * (call.num_matrices * parts * block_out + copies_of_x * right)
    num_stages = max(2, min(num_stages, SHARED_MEMORY_BYTES // resident // stage_bytes))
    return MatmulBlocks(
        block_out=block_out,
        block_in=block_in,
        num_splits=num_splits,
        dot_parts=parts,
        num_warps=4 if num_sums <= MAX_SUMS and parts * block_out <= WARPGROUP_ROWS else 8,
        num_stages=num_stages,
    )
