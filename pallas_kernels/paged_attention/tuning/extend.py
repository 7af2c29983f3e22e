"""Blocks of extend."""

from dataclasses import dataclass

from pallas_kernels.paged_attention.tuning.shared_memory import fitting_tile
from pallas_kernels.triton_call import MIN_DOT_SIZE, next_power_of_two


@dataclass(frozen=True)
class ExtendBlocks:
    """A program serves `block_tokens` query tokens of one row and reads `tile` positions per iteration."""

    block_tokens: int
    tile: int
    num_warps: int
    num_stages: int


def extend_blocks(tokens: int, group: int, head_dim: int, itemsize: int) -> ExtendBlocks:
    """64 query rows (tokens x heads of a group) a program where there are as many, and at least a dot's 16."""
    padded_group = next_power_of_two(group)
    wanted_rows = 64 if tokens * padded_group >= 64 else MIN_DOT_SIZE
    block_tokens = max(1, wanted_rows // padded_group)
    return ExtendBlocks(block_tokens, fitting_tile(64, head_dim, itemsize, num_stages=2), num_warps=4, num_stages=2)
