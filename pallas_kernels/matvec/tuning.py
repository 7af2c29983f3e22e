"""Blocks of the matrix-vector kernel: tuned numbers where there are any, else a heuristic."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pallas_kernels.device import target_device
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.tuned import tuned_blocks

MAX_MULTIPLY_BATCH = 2  # three instructions per weight and two more per further row: beyond, the dot is cheaper
# Rows of a dot's left operand, inputs per iteration, warps, stages: the first is the heuristic's, wgmma of four warps.
DOTS = ((64, 128, 4, 4), (64, 128, 4, 3), (64, 256, 4, 3), (128, 128, 8, 3))
MAX_DOT_COLUMNS = 32  # parts times rows of x: more of them would fill shared memory with copies of x
FEWEST_PROGRAMS = 1 / 3  # a multiprocessor: one can read faster than its share, and merging splits costs a kernel
MOST_SPLIT_PROGRAMS = 3  # a multiprocessor


@dataclass(frozen=True)
class Blocks:
    """A program computes `block_out` outputs, reading `block_in` inputs' weights (of each part) per iteration.

    `num_splits` programs share the inputs of a block of outputs; "xla" adds their sums up behind the kernel, in a
    fusion that may take in what follows, and "last_program" adds them in the kernel but needs zeroed counters before.
    `dot_parts` is None to multiply and add without tensor cores, else the parts of the inputs that share a dot.
    """

    block_out: int
    block_in: int
    num_splits: int
    dot_parts: int | None
    merge: Literal["xla", "last_program"]
    num_warps: int
    num_stages: int


def matvec_key(batch: int, num_in: int, num_out: int, transposed: bool, itemsize: int) -> dict[str, int | str]:
    """What the choice depends on."""
    layout = "out_in" if transposed else "in_out"
    return {"batch": next_power_of_two(batch), "in": num_in, "out": num_out, "layout": layout, "itemsize": itemsize}


def matvec_blocks(batch: int, num_in: int, num_out: int, transposed: bool, itemsize: int) -> Blocks:
    """Narrow blocks of outputs where wide ones would leave multiprocessors idle; splits where that is not enough."""
    key = matvec_key(batch, num_in, num_out, transposed, itemsize)
    tuned = tuned_blocks("matvec", "matvec", key, Blocks)
    if tuned is not None:
        return tuned
    num_multiprocessors = target_device().num_multiprocessors
    is_wide = [block for block in (64, 32) if ceil_div(num_out, block) >= 0.9 * num_multiprocessors]
    block_out = is_wide[0] if is_wide else 16
    programs = ceil_div(num_out, block_out)
    wanted = 1 if programs >= FEWEST_PROGRAMS * num_multiprocessors else num_multiprocessors // programs
    if batch > MAX_MULTIPLY_BATCH and itemsize == 2:
        return _dot(batch, num_in, block_out, wanted, *DOTS[0])
    # float32 has no tensor cores. Tiles shrink as rows grow, for the sums of all rows to stay in registers.
    tile_bytes, num_warps = (32768, 8) if batch <= MAX_MULTIPLY_BATCH else (16384, 4) if batch <= 8 else (8192, 4)
    return _multiply(num_in, block_out, wanted, tile_bytes // itemsize, num_warps)


def matvec_candidates(batch: int, num_in: int, num_out: int, transposed: bool, itemsize: int) -> list[Blocks]:
    """What a tuning sweep tries."""
    num_multiprocessors = target_device().num_multiprocessors
    found = [matvec_blocks(batch, num_in, num_out, transposed, itemsize)]
    for block_out in (8, 16, 32, 64, 128):
        for num_splits in (1, 2, 4, 8):
            programs = ceil_div(num_out, block_out) * num_splits / num_multiprocessors
            if programs >= FEWEST_PROGRAMS and (num_splits == 1 or programs <= MOST_SPLIT_PROGRAMS):
                found += _candidates(batch, num_in, block_out, num_splits, itemsize)
    return list(dict.fromkeys(found))


def _candidates(batch: int, num_in: int, block_out: int, num_splits: int, itemsize: int) -> Iterator[Blocks]:
    """Many for whole inputs, and one of each kind for splits."""
    is_whole = num_splits == 1
    if batch <= 2 * MAX_MULTIPLY_BATCH or itemsize > 2:
        for kibibytes, num_warps in ((16, 4), (32, 4), (32, 8), (64, 8)) if is_whole else ((32, 8),):
            yield _multiply(num_in, block_out, num_splits, kibibytes * 1024 // itemsize, num_warps)
    if itemsize > 2:
        return
    for rows, block_in, num_warps, num_stages in DOTS if is_whole else DOTS[:1]:
        blocks = _dot(batch, num_in, block_out, num_splits, rows, block_in, num_warps, num_stages)
        yield blocks
        if blocks.num_splits > 1:
            yield replace(blocks, merge="last_program")


def _multiply(num_in: int, block_out: int, num_splits: int, tile: int, num_warps: int) -> Blocks:
    block_in = min(tile // block_out, next_power_of_two(ceil_div(num_in, num_splits)))
    num_splits = min(num_splits, ceil_div(num_in, block_in))
    return Blocks(block_out, block_in, num_splits, None, "xla", num_warps, num_stages=1)


def _dot(
    batch: int,
    num_in: int,
    block_out: int,
    num_splits: int,
    rows: int,
    block_in: int,
    num_warps: int,
    num_stages: int,
) -> Blocks:
    parts = max(1, min(rows // block_out, MAX_DOT_COLUMNS // next_power_of_two(batch)))
    block_in = max(MIN_DOT_SIZE, min(block_in, next_power_of_two(ceil_div(num_in, parts * num_splits))))
    num_splits = min(num_splits, ceil_div(num_in, parts * block_in))
    return Blocks(block_out, block_in, num_splits, parts, "xla", num_warps, num_stages)
