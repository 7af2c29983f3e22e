"""Blocks of decode."""

from dataclasses import dataclass

from pallas_kernels.device import target_device
from pallas_kernels.paged_attention.tuning.shared_memory import fitting_tile

PROGRAMS_PER_MULTIPROCESSOR = 4
MIN_SPLIT_POSITIONS = 256  # below this, merging partial results costs more than the split gains
MAX_SPLITS = 64


@dataclass(frozen=True)
class DecodeBlocks:
    """`tile` positions are read per iteration and each row is divided into `num_splits` programs."""

    tile: int
    num_splits: int
    num_warps: int
    num_stages: int


def decode_blocks(rows: int, num_kv_heads: int, head_dim: int, max_positions: int, itemsize: int) -> DecodeBlocks:
    """Enough splits to fill the machine `PROGRAMS_PER_MULTIPROCESSOR` times, unless rows and heads fill it already."""
    wanted = target_device().num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR // (rows * num_kv_heads)
    most = min(MAX_SPLITS, -(-max_positions // MIN_SPLIT_POSITIONS))
    num_splits = max(1, min(wanted, most))
    tile = fitting_tile(64, head_dim, itemsize, num_stages=3)
    return DecodeBlocks(tile=tile, num_splits=num_splits, num_warps=4 if num_splits > 1 else 2, num_stages=3)
