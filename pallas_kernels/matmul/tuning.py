"""Blocks of the matmul kernel: tuned numbers where there are any, else a heuristic.

bfloat16 takes the tensor cores at every number of rows, though most of a dot is padding at the smallest:
threads that convert, multiply and add do not keep up with the memory. Measured on an H200, a 4096 -> 6144
layer took 33 us multiplied and added in threads at 1 row, and 17 us as a padded dot at 4 rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key
from pallas_kernels.matmul.contract import Fusion

# Weights of a dot of few rows: rows of its left operand and inputs, per iteration; warps and stages. The
# first is the heuristic's, wgmma of four warps.
FEW_ROWS = (
    (64, 128, 4, 4),
    (64, 128, 4, 3),
    (64, 128, 4, 6),
    (64, 256, 4, 3),
    (64, 64, 4, 6),
    (128, 64, 4, 6),
    (128, 128, 8, 3),
)
MAX_FEW_ROWS = 16  # more of them fill the right side of a dot by themselves
MAX_DOT_COLUMNS = 64  # parts times rows of x: more of them would fill shared memory with copies of x
# A multiprocessor: one can read faster than its share, and merging splits costs a kernel.
MIN_PROGRAMS = 1 / 3
MAX_SPLIT_PROGRAMS = 3  # a multiprocessor
# Of many rows. Every block of columns reads all of x from the L2 cache, which gives a third more than the
# memory.
MANY_ROWS_WIDTHS = (64, 128, 256)  # columns of weights a program, of which a dot has at least 64
MANY_ROWS_INPUTS = (64, 128)  # per iteration
MIN_STAGES, MAX_STAGES = 3, 8
SHARED_MEMORY_BYTES = 220 * 1024  # of a multiprocessor, for all its programs
PARTIAL_SHARE = 1 / 4  # of the bytes of the weights: what is written for splits, and read again


@dataclass(frozen=True)
class MatmulBlocks:
    """A program computes `block_out` outputs, reading `block_in` inputs' weights (of each part) per
    iteration.

    `num_splits` programs share the inputs of a block of outputs; XLA adds their sums up after the kernel, in
    a fusion that may take in what follows. `dot_parts` is how many parts of the inputs share a dot, and None
    for float32, which is multiplied and added without tensor cores: they would round it to TF32.
    """

    block_out: int
    block_in: int
    num_splits: int
    dot_parts: int | None
    num_warps: int
    num_stages: int


class MatmulCall(NamedTuple):
    """The facts that the choice of blocks depends on.

    `num_out` counts the results of a row, each of two columns where gated.
    """

    rows: int
    num_in: int
    num_out: int
    is_transposed: bool
    is_gated: bool
    is_normalized: bool
    itemsize: int

    @classmethod
    def of(cls, x: Array, w: Array, transposed: bool, fusion: Fusion) -> "MatmulCall":
        """The call with these arguments of `matmul`."""
        num_out = w.shape[-2 if transposed else -1] // (2 if fusion.gated else 1)
        rows, num_in = x.shape
        is_normalized = fusion.norm is not None
        return cls(rows, num_in, num_out, transposed, fusion.gated, is_normalized, x.dtype.itemsize)

    @property
    def num_matrices(self) -> int:
        """The gate and the others, or one."""
        return 2 if self.is_gated else 1


def matmul_key(call: MatmulCall) -> dict[str, int | bool]:
    """A call's tuned entry; rows count as the power of two that holds them."""
    return tuned_key(call, rounded=["rows"])


def matmul_blocks(call: MatmulCall) -> MatmulBlocks:
    """Narrow blocks of outputs where wide ones would leave multiprocessors idle; splits where that is not
    enough."""
    tuned = tuned_blocks("matmul", "matmul", matmul_key(call), MatmulBlocks)
    if tuned is not None:
        return tuned
    num_multiprocessors = target_device().num_multiprocessors
    if call.itemsize == 2 and call.rows > MAX_FEW_ROWS:
        return _many_rows(call, num_multiprocessors)
    is_wide = [block for block in (64, 32) if ceil_div(call.num_out, block) >= 0.9 * num_multiprocessors]
    block_out = is_wide[0] if is_wide else 16
    programs = ceil_div(call.num_out, block_out)
    is_enough = call.is_normalized or programs >= MIN_PROGRAMS * num_multiprocessors
    wanted = 1 if is_enough else num_multiprocessors // programs
    if call.itemsize == 2:
        return _few_rows_dot(call, block_out, wanted, *FEW_ROWS[0])
    # Tiles shrink as rows grow, for the sums of all rows to stay in registers.
    tile_bytes, num_warps = (32768, 8) if call.rows <= 2 else (16384, 4) if call.rows <= 8 else (8192, 4)
    return _multiply(call, block_out, wanted, tile_bytes // call.itemsize, num_warps)


def matmul_candidates(call: MatmulCall) -> list[MatmulBlocks]:
    """The candidates of a tuning sweep."""
    num_multiprocessors = target_device().num_multiprocessors
    if call.itemsize == 2 and call.rows > MAX_FEW_ROWS:
        return _many_rows_candidates(call, num_multiprocessors)
    found = [matmul_blocks(call)]
    for block_out in (16, 32, 64, 128):
        for num_splits in (1,) if call.is_normalized else (1, 2, 4, 8):
            programs = ceil_div(call.num_out, block_out) * num_splits / num_multiprocessors
            if programs >= MIN_PROGRAMS and (num_splits == 1 or programs <= MAX_SPLIT_PROGRAMS):
                found += _few_rows_candidates(call, block_out, num_splits)
    return list(dict.fromkeys(found))


def _few_rows_candidates(call: MatmulCall, block_out: int, num_splits: int) -> Iterator[MatmulBlocks]:
    """Yields many candidates for whole inputs, and few for splits."""
    is_whole = num_splits == 1
    if call.itemsize == 2:
        for rows, block_in, num_warps, num_stages in FEW_ROWS if is_whole else FEW_ROWS[:3]:
            yield _few_rows_dot(call, block_out, num_splits, rows, block_in, num_warps, num_stages)
        return
    for kibibytes, num_warps in ((16, 4), (32, 4), (32, 8), (64, 8)) if is_whole else ((32, 8),):
        yield _multiply(call, block_out, num_splits, kibibytes * 1024 // call.itemsize, num_warps)


def _multiply(call: MatmulCall, block_out: int, num_splits: int, tile: int, num_warps: int) -> MatmulBlocks:
    widest = tile // (block_out * call.num_matrices)
    block_in = min(widest, next_power_of_two(ceil_div(call.num_in, num_splits)))
    num_splits = min(num_splits, ceil_div(call.num_in, block_in))
    return MatmulBlocks(
        block_out=block_out,
        block_in=block_in,
        num_splits=num_splits,
        dot_parts=None,
        num_warps=num_warps,
        num_stages=1,
    )


def _few_rows_dot(
    call: MatmulCall,
    block_out: int,
    num_splits: int,
    left: int,
    block_in: int,
    num_warps: int,
    num_stages: int,
) -> MatmulBlocks:
    """`left` rows of weights a dot, of one matrix; a gate and the others share the inputs of an iteration."""
    parts = max(1, min(left // block_out, MAX_DOT_COLUMNS // next_power_of_two(call.rows)))
    widest = block_in // call.num_matrices
    block_in = max(MIN_DOT_SIZE, min(widest, next_power_of_two(ceil_div(call.num_in, parts * num_splits))))
    num_splits = min(num_splits, ceil_div(call.num_in, parts * block_in))
    copies_of_x = 2 if call.is_normalized else 1  # the norm's scale is loaded like it
    right = copies_of_x * max(MIN_DOT_SIZE, parts * next_power_of_two(call.rows))
    stage_bytes = (call.num_matrices * parts * block_out + right) * block_in * call.itemsize
    num_stages = max(2, min(num_stages, SHARED_MEMORY_BYTES // stage_bytes))
    return MatmulBlocks(
        block_out=block_out,
        block_in=block_in,
        num_splits=num_splits,
        dot_parts=parts,
        num_warps=num_warps,
        num_stages=num_stages,
    )


def _many_rows(call: MatmulCall, num_multiprocessors: int) -> MatmulBlocks:
    """128 columns a program; 256 where one program on most multiprocessors is all there is to do, 64 of few
    columns.

    And splits until all of them work, or there is more to merge than that is worth.
    """
    is_one_wave = num_multiprocessors * 2 / 3 <= _num_programs(call, 256) <= num_multiprocessors
    is_narrow = _num_programs(call, 128) * _max_splits(call) < num_multiprocessors / 2
    width = 256 if is_one_wave else 64 if is_narrow and not call.is_gated else 128
    programs = _num_programs(call, width)
    is_enough = call.is_gated and programs >= MIN_PROGRAMS * num_multiprocessors
    wanted = 1 if is_enough else num_multiprocessors // programs
    num_splits = max(1, min(wanted, _max_splits(call)))
    return _many_rows_dot(
        call, width, MANY_ROWS_INPUTS[0], num_splits, _max_resident(call, width, num_splits)
    )


def _many_rows_candidates(call: MatmulCall, num_multiprocessors: int) -> list[MatmulBlocks]:
    found = [matmul_blocks(call)]
    for width in MANY_ROWS_WIDTHS[call.num_matrices - 1 :]:
        programs = _num_programs(call, width)
        for num_splits in (1, 2, 3, 4, 6, 8):
            share = programs * num_splits / num_multiprocessors
            is_sensible = num_splits == 1 or (
                share <= MAX_SPLIT_PROGRAMS and num_splits <= 2 * _max_splits(call)
            )
            if share < MIN_PROGRAMS or not is_sensible:
                continue
            for block_in in MANY_ROWS_INPUTS:
                found += [_many_rows_dot(call, width, block_in, num_splits, resident) for resident in (1, 2)]
    return [
        blocks for blocks in dict.fromkeys(found) if blocks is found[0] or blocks.num_stages >= MIN_STAGES
    ]


def _num_programs(call: MatmulCall, width: int) -> int:
    """The programs of a call without splits."""
    return ceil_div(call.num_matrices * call.num_out, width)


def _max_splits(call: MatmulCall) -> int:
    """Each writes float32 sums of all rows: so many that they are `PARTIAL_SHARE` of the bytes of the
    weights."""
    return max(1, int(PARTIAL_SHARE * call.num_in * call.itemsize / (4 * next_power_of_two(call.rows))))


def _max_resident(call: MatmulCall, width: int, num_splits: int) -> int:
    """Programs on a multiprocessor at a time: a second one reads while the first begins or ends."""
    return 1 if _num_programs(call, width) * num_splits <= target_device().num_multiprocessors else 2


def _many_rows_dot(
    call: MatmulCall, width: int, block_in: int, num_splits: int, resident: int
) -> MatmulBlocks:
    """Blocks with all stages that leave room for `resident` programs on a multiprocessor."""
    block_in = max(MIN_DOT_SIZE, min(block_in, next_power_of_two(ceil_div(call.num_in, num_splits))))
    num_splits = min(num_splits, ceil_div(call.num_in, block_in))
    stage_bytes = (width + next_power_of_two(call.rows)) * block_in * call.itemsize
    num_stages = max(2, min(MAX_STAGES, SHARED_MEMORY_BYTES // resident // stage_bytes))
    block_out = width // call.num_matrices
    return MatmulBlocks(
        block_out=block_out,
        block_in=block_in,
        num_splits=num_splits,
        dot_parts=1,
        num_warps=4 if block_out <= 64 else 8,
        num_stages=num_stages,
    )
