"""Block sizes of the Triton kernels: a heuristic from shapes alone, so that any device and any shape is served."""

from dataclasses import dataclass

from pallas_kernels.triton_call import MIN_DOT_SIZE, next_power_of_two

NUM_MULTIPROCESSORS = 132  # of an H100 or H200; on another device it only changes how far a row is split
PROGRAMS_PER_MULTIPROCESSOR = 4
MIN_SPLIT_POSITIONS = 256  # below this, merging partial results costs more than the split gains
MAX_SPLITS = 64
SHARED_MEMORY_BYTES = 160 * 1024  # of the 227 KB a program may have, with room for Triton's own staging


@dataclass(frozen=True)
class DecodeBlocks:
    """`tile` positions are read per iteration and each row is divided into `num_splits` programs."""

    tile: int
    num_splits: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class ExtendBlocks:
    """A program serves `block_tokens` query tokens of one row and reads `tile` positions per iteration."""

    block_tokens: int
    tile: int
    num_warps: int
    num_stages: int


def decode_blocks(rows: int, num_kv_heads: int, head_dim: int, max_positions: int, itemsize: int) -> DecodeBlocks:
    """Enough splits to fill the machine `PROGRAMS_PER_MULTIPROCESSOR` times, unless rows and heads fill it already."""
    wanted = NUM_MULTIPROCESSORS * PROGRAMS_PER_MULTIPROCESSOR // (rows * num_kv_heads)
    most = min(MAX_SPLITS, -(-max_positions // MIN_SPLIT_POSITIONS))
    num_splits = max(1, min(wanted, most))
    tile = _fitting_tile(64, head_dim, itemsize, num_stages=3)
    return DecodeBlocks(tile=tile, num_splits=num_splits, num_warps=4 if num_splits > 1 else 2, num_stages=3)


def extend_blocks(tokens: int, group: int, head_dim: int, itemsize: int) -> ExtendBlocks:
    """64 query rows (tokens x heads of a group) a program where there are as many, and at least a dot's 16."""
    padded_group = next_power_of_two(group)
    wanted_rows = 64 if tokens * padded_group >= 64 else MIN_DOT_SIZE
    block_tokens = max(1, wanted_rows // padded_group)
    return ExtendBlocks(block_tokens, _fitting_tile(64, head_dim, itemsize, num_stages=2), num_warps=4, num_stages=2)


def _fitting_tile(tile: int, head_dim: int, itemsize: int, *, num_stages: int) -> int:
    """Halves `tile` until the keys and values in flight fit into shared memory."""
    while tile > MIN_DOT_SIZE and 2 * num_stages * tile * head_dim * itemsize > SHARED_MEMORY_BYTES:
        tile //= 2
    return tile
