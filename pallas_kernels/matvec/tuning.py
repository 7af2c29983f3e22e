"""Blocks of the matrix-vector kernel: tuned numbers where there are any, else a heuristic.

bfloat16 takes the tensor cores at every batch, though most of a dot is padding at the smallest: threads that convert,
multiply and add do not keep up with the memory. Measured on an H200, a 4096 -> 6144 layer took 33 us multiplied and
added in threads at batch 1, and 17 us as a padded dot at batch 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pallas_kernels.device import target_device
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.tuned import tuned_blocks

# Rows of a dot's left operand, inputs per iteration, warps, stages: the first is the heuristic's, wgmma of four warps.
DOTS = ((64, 128, 4, 4), (64, 128, 4, 3), (64, 256, 4, 3), (128, 128, 8, 3))
MAX_DOT_COLUMNS = 32  # parts times rows of x: more of them would fill shared memory with copies of x
FEWEST_PROGRAMS = 1 / 3  # a multiprocessor: one can read faster than its share, and merging splits costs a kernel
MOST_SPLIT_PROGRAMS = 3  # a multiprocessor


@dataclass(frozen=True)
class Blocks:
    """A program computes `block_out` outputs, reading `block_in` inputs' weights (of each part) per iteration.

    `num_splits` programs share the inputs of a block of outputs; XLA adds their sums up behind the kernel, in a fusion
    that may take in what follows. `dot_parts` is how many parts of the inputs share a dot, and None for float32, which
    is multiplied and added without tensor cores: they would round it to TF32.
    """

    block_out: int
    block_in: int
    num_splits: int
    dot_parts: int | None
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
    if itemsize == 2:
        return _dot(batch, num_in, block_out, wanted, *DOTS[0])
    # Tiles shrink as rows grow, for the sums of all rows to stay in registers.
    tile_bytes, num_warps = (32768, 8) if batch <= 2 else (16384, 4) if batch <= 8 else (8192, 4)
    return _multiply(num_in, block_out, wanted, tile_bytes // itemsize, num_warps)


def matvec_candidates(batch: int, num_in: int, num_out: int, transposed: bool, itemsize: int) -> list[Blocks]:
    """What a tuning sweep tries."""
    num_multiprocessors = target_device().num_multiprocessors
    found = [matvec_blocks(batch, num_in, num_out, transposed, itemsize)]
    for block_out in (16, 32, 64, 128):
        for num_splits in (1, 2, 4, 8):
            programs = ceil_div(num_out, block_out) * num_splits / num_multiprocessors
            if programs >= FEWEST_PROGRAMS and (num_splits == 1 or programs <= MOST_SPLIT_PROGRAMS):
                found += _candidates(batch, num_in, block_out, num_splits, itemsize)
    return list(dict.fromkeys(found))


def _candidates(batch: int, num_in: int, block_out: int, num_splits: int, itemsize: int) -> Iterator[Blocks]:
    """Many for whole inputs, and few for splits."""
    is_whole = num_splits == 1
    if itemsize == 2:
        for rows, block_in, num_warps, num_stages in DOTS if is_whole else DOTS[:2]:
            yield _dot(batch, num_in, block_out, num_splits, rows, block_in, num_warps, num_stages)
        return
    for kibibytes, num_warps in ((16, 4), (32, 4), (32, 8), (64, 8)) if is_whole else ((32, 8),):
        yield _multiply(num_in, block_out, num_splits, kibibytes * 1024 // itemsize, num_warps)


def _multiply(num_in: int, block_out: int, num_splits: int, tile: int, num_warps: int) -> Blocks:
    block_in = min(tile // block_out, next_power_of_two(ceil_div(num_in, num_splits)))
    num_splits = min(num_splits, ceil_div(num_in, block_in))
    return Blocks(block_out, block_in, num_splits, None, num_warps, num_stages=1)


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
    return Blocks(block_out, block_in, num_splits, parts, num_warps, num_stages)
