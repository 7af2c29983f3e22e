"""Blocks of extend."""

import itertools
from dataclasses import dataclass

from pallas_kernels.device import target_device
from pallas_kernels.paged_attention.tuning.shared_memory import fitting_tile
from pallas_kernels.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.tuned import tuned_blocks

MIN_SPLIT_POSITIONS = 256
MAX_SPLITS = 32


@dataclass(frozen=True)
class ExtendBlocks:
    """A program serves `block_tokens` query tokens of one row, reads `tile` positions per iteration, and shares them
    with `num_splits` - 1 others."""

    block_tokens: int
    tile: int
    num_splits: int
    num_warps: int
    num_stages: int


def extend_blocks(
    tokens: int,
    rows: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    page_size: int,
    max_positions: int,
    itemsize: int,
) -> ExtendBlocks:
    """Tuned numbers where there are any; else 128 query rows (tokens x heads of a group) a program where rows have as
    many, and splits only where the blocks leave multiprocessors idle."""
    key = extend_key(tokens, rows, num_heads, num_kv_heads, head_dim, page_size, max_positions, itemsize)
    found = tuned_blocks("paged_attention", "extend", key, ExtendBlocks)
    if found is not None:
        return found
    padded_group = next_power_of_two(num_heads // num_kv_heads)
    most = 128 if itemsize <= 2 and head_dim <= 128 else 64
    query_rows = min(most, max(MIN_DOT_SIZE, next_power_of_two(ceil_div(tokens, rows)) * padded_group))
    block_tokens = max(1, query_rows // padded_group)
    programs = ceil_div(tokens, block_tokens) * num_kv_heads
    num_splits = min(target_device().num_multiprocessors // programs, MAX_SPLITS, max_positions // MIN_SPLIT_POSITIONS)
    tile = fitting_tile(64, head_dim, itemsize, num_stages=2)
    num_warps = 8 if query_rows * tile >= 128 * 64 else 4
    return ExtendBlocks(block_tokens, tile, max(1, num_splits), num_warps, num_stages=2)


def extend_key(
    tokens: int,
    rows: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    page_size: int,
    max_positions: int,
    itemsize: int,
) -> dict[str, int]:
    """What the choice depends on; tokens, rows and positions as the power of two that holds them."""
    return {
        "tokens": next_power_of_two(tokens), "rows": next_power_of_two(rows), "num_heads": num_heads,
        "num_kv_heads": num_kv_heads, "head_dim": head_dim, "page_size": page_size,
        "max_positions": next_power_of_two(max_positions), "itemsize": itemsize,
    }  # fmt: skip


def extend_candidates(
    tokens: int,
    rows: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    page_size: int,
    max_positions: int,
    itemsize: int,
) -> list[ExtendBlocks]:
    """What a sweep tries: 64 and 128 query rows, or as many as the rows have; tiles of 32 to 128 positions."""
    padded_group = next_power_of_two(num_heads // num_kv_heads)
    splits = extend_blocks(
        tokens, rows, num_heads, num_kv_heads, head_dim, page_size, max_positions, itemsize
    ).num_splits
    candidates = []
    for query_rows, tile, num_warps, num_stages in itertools.product((16, 32, 64, 128), (32, 64, 128), (4, 8), (2, 3)):
        if query_rows <= max(MIN_DOT_SIZE, next_power_of_two(ceil_div(tokens, rows)) * padded_group):
            block_tokens = max(1, query_rows // padded_group)
            candidates.append(ExtendBlocks(block_tokens, tile, splits, num_warps, num_stages))
    return list(dict.fromkeys(candidates))
