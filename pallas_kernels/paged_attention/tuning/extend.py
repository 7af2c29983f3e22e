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
    if itemsize > 2:
        # A float32 dot is done outside of tensor cores, with both operands in registers: all that does not spill.
        most, tile, num_stages, num_warps = (16 if head_dim <= 128 else 32), MIN_DOT_SIZE, 2, 8
    else:
        most = 256 * 128 // max(128, next_power_of_two(head_dim))  # query rows whose accumulator fits in registers
        if page_size < 16:  # a thread's positions are in more pages, and one register too many would be spilled
            most //= 2
        num_stages = 3 if head_dim <= 128 else 2
        tile = fitting_tile(64, head_dim, itemsize, num_stages=num_stages)
        num_warps = 8
    query_rows = min(most, max(MIN_DOT_SIZE, next_power_of_two(ceil_div(tokens, rows)) * padded_group))
    block_tokens = max(1, query_rows // padded_group)
    programs = ceil_div(tokens, block_tokens) * num_kv_heads
    num_splits = min(target_device().num_multiprocessors // programs, MAX_SPLITS, max_positions // MIN_SPLIT_POSITIONS)
    if itemsize <= 2 and query_rows < 128:
        num_warps = 4
    return ExtendBlocks(block_tokens, tile, max(1, num_splits), num_warps, num_stages)


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
    """What a sweep tries: as many query rows as rows have, up to 256, and warps that have enough of them."""
    padded_group = next_power_of_two(num_heads // num_kv_heads)
    facts = tokens, rows, num_heads, num_kv_heads, head_dim, page_size, max_positions, itemsize
    num_splits = extend_blocks(*facts).num_splits
    most = max(MIN_DOT_SIZE, next_power_of_two(ceil_div(tokens, rows)) * padded_group)
    candidates = []
    for query_rows, tile, num_stages in itertools.product((16, 32, 64, 128, 256), (32, 64, 128), (2, 3, 4)):
        for num_warps in {16: (4,), 32: (4,), 64: (4,), 128: (8,), 256: (8, 16)}[query_rows]:
            if query_rows <= most:
                block_tokens = max(1, query_rows // padded_group)
                candidates.append(ExtendBlocks(block_tokens, tile, num_splits, num_warps, num_stages))
    return list(dict.fromkeys(candidates))
