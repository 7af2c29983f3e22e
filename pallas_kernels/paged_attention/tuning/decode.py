"""Blocks of decode."""

import itertools
from dataclasses import dataclass

from pallas_kernels.device import target_device
from pallas_kernels.paged_attention.tuning.shared_memory import fitting_tile
from pallas_kernels.triton_call import MIN_DOT_SIZE, next_power_of_two
from pallas_kernels.tuned import tuned_blocks

PROGRAMS_PER_MULTIPROCESSOR = 4
MIN_SPLIT_POSITIONS = 64  # below this, a split is all start-up
MAX_SPLITS = 64


@dataclass(frozen=True)
class DecodeBlocks:
    """A program serves `kv_heads` heads of one row, reads `tile` positions of each per iteration, and shares the row
    with `num_splits` - 1 others."""

    kv_heads: int
    tile: int
    num_splits: int
    num_warps: int
    num_stages: int


def decode_blocks(
    rows: int, num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, max_positions: int, itemsize: int
) -> DecodeBlocks:
    """Tuned numbers where there are any; else as many KV heads as fill the rows of a dot, and splits that fill the
    machine `PROGRAMS_PER_MULTIPROCESSOR` times."""
    key = decode_key(rows, num_heads, num_kv_heads, head_dim, page_size, max_positions, itemsize)
    found = tuned_blocks("paged_attention", "decode", key, DecodeBlocks)
    if found is not None:
        return found
    kv_heads = packed_kv_heads(num_heads, num_kv_heads, MIN_DOT_SIZE)
    wanted = target_device().num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR // (rows * -(-num_kv_heads // kv_heads))
    most = min(MAX_SPLITS, -(-max_positions // MIN_SPLIT_POSITIONS))
    tile = max(1, fitting_tile(128, head_dim, itemsize, num_stages=3) // kv_heads)
    return DecodeBlocks(kv_heads, tile, num_splits=max(1, min(wanted, most)), num_warps=4, num_stages=3)


def decode_key(
    rows: int, num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, max_positions: int, itemsize: int
) -> dict[str, int]:
    """What the choice depends on; rows and positions as the power of two that holds them."""
    return {
        "rows": next_power_of_two(rows), "num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim,
        "page_size": page_size, "max_positions": next_power_of_two(max_positions), "itemsize": itemsize,
    }  # fmt: skip


def decode_candidates(
    rows: int, num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, max_positions: int, itemsize: int
) -> list[DecodeBlocks]:
    """What a sweep tries: columns of a dot 32 to 128, splits that fill the machine once to eight times."""
    candidates = []
    for query_rows, columns, waves in itertools.product((0, 16, 32), (32, 64, 128), (1, 2, 4, 8)):
        kv_heads = packed_kv_heads(num_heads, num_kv_heads, query_rows)
        programs = rows * -(-num_kv_heads // kv_heads)
        splits = max(1, min(MAX_SPLITS, -(-132 * waves // programs), -(-max_positions // 32)))
        for num_warps, num_stages in ((2, 3), (4, 3), (4, 4), (8, 3)):
            if columns >= kv_heads:
                candidates.append(DecodeBlocks(kv_heads, columns // kv_heads, splits, num_warps, num_stages))
    return list(dict.fromkeys(candidates))


def packed_kv_heads(num_heads: int, num_kv_heads: int, query_rows: int) -> int:
    """How many KV heads, a power of two, bring their query heads to at most `query_rows` rows of a dot; at least 1."""
    kv_heads = 1
    while 2 * kv_heads * (num_heads // num_kv_heads) <= query_rows and 2 * kv_heads <= next_power_of_two(num_kv_heads):
        kv_heads *= 2
    return kv_heads
