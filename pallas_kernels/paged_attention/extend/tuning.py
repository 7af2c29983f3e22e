"""Blocks of extend."""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key
from pallas_kernels.paged_attention.tuning import attention_facts

SHARED_MEMORY_BYTES = 160 * 1024  # of the 227 KB a program may have, with room for Triton's own staging
MIN_SPLIT_POSITIONS = 256
MAX_SPLITS = 32
MIN_UNSPLIT_ROWS = 64  # query rows a program: fewer leave the tensor cores idle


@dataclass(frozen=True)
class ExtendBlocks:
    """A program serves `block_tokens` query tokens of one row, reads `tile` positions per iteration, and
    shares them with `num_splits` - 1 others."""

    block_tokens: int
    tile: int
    num_splits: int
    num_warps: int
    num_stages: int


class ExtendCall(NamedTuple):
    """The facts that the choice of blocks depends on. `max_positions` is what a row's page table can hold;
    `quantized` is the dtype of a cache whose values have scales."""

    tokens: int
    rows: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    max_positions: int
    itemsize: int
    quantized: str | None = None

    @classmethod
    def of(cls, q: Array, kv_pages: AnyKVPages, page_table: Array) -> "ExtendCall":
        """The call with these arguments of `extend`."""
        facts = attention_facts(q, kv_pages, page_table)
        return cls(tokens=q.shape[0], rows=page_table.shape[0], **facts)

    @property
    def padded_group(self) -> int:
        """Query heads that share a KV head, as a power of two."""
        return next_power_of_two(self.num_heads // self.num_kv_heads)

    @property
    def max_query_rows(self) -> int:
        """Rows of a dot (tokens x heads of a group) that a row of average length can fill."""
        return max(MIN_DOT_SIZE, next_power_of_two(ceil_div(self.tokens, self.rows)) * self.padded_group)


def extend_blocks(call: ExtendCall) -> ExtendBlocks:
    """Tuned numbers where there are any; else up to 256 query rows (tokens x heads of a group) a program
    where rows have as many, and fewer rows, then splits, where the blocks leave multiprocessors idle."""
    found = tuned_blocks("paged_attention", "extend", extend_key(call), ExtendBlocks)
    if found is not None:
        return found
    if call.itemsize > 2:
        # A float32 dot is done outside of tensor cores, with both operands in registers: all that does not
        # spill.
        max_rows = 16 if call.head_dim <= 128 else 32
        tile = MIN_DOT_SIZE
        num_stages = 2
    else:
        # Rows whose accumulator fits in registers.
        max_rows = 256 * 128 // max(128, next_power_of_two(call.head_dim))
        # A thread's positions are in more pages, or it converts values: one register too many would be
        # spilled.
        if call.quantized is not None or (call.page_size < 16 and call.head_dim <= 256):
            max_rows //= 2
        num_stages = 3 if call.head_dim <= 128 else 2
        tile = fitting_tile(64, call.head_dim, call.itemsize, num_stages=num_stages)
    query_rows = _enough_programs(min(max_rows, call.max_query_rows), call)
    block_tokens = max(1, query_rows // call.padded_group)
    # A warpgroup that converts values of 256 elements has registers for fewer queries, and with 512 for none.
    max_rows_of_4 = 0 if call.head_dim > 256 else 32 if call.quantized and call.head_dim > 128 else 64
    num_warps = 4 if call.itemsize <= 2 and query_rows <= max_rows_of_4 else 8
    return ExtendBlocks(block_tokens, tile, _num_splits(call, block_tokens), num_warps, num_stages)


def _enough_programs(query_rows: int, call: ExtendCall) -> int:
    """Fewer rows a program where there would be too few programs: that needs no merge, and split programs of
    many rows would spill."""
    num_multiprocessors = target_device().num_multiprocessors
    while (
        query_rows > MIN_UNSPLIT_ROWS
        and _programs(call, query_rows // call.padded_group) < num_multiprocessors
    ):
        query_rows //= 2
    return query_rows


def _programs(call: ExtendCall, block_tokens: int) -> int:
    return ceil_div(call.tokens, max(1, block_tokens)) * call.num_kv_heads


def _num_splits(call: ExtendCall, block_tokens: int) -> int:
    programs = _programs(call, block_tokens)
    max_splits = min(MAX_SPLITS, call.max_positions // MIN_SPLIT_POSITIONS)
    return max(1, min(target_device().num_multiprocessors // programs, max_splits))


def extend_key(call: ExtendCall) -> dict[str, Any]:
    """A call's tuned entry; tokens, rows and positions count as the power of two that holds them."""
    return tuned_key(call, rounded=["tokens", "rows", "max_positions"])


def extend_candidates(call: ExtendCall) -> list[ExtendBlocks]:
    """The candidates of a sweep: as many query rows as rows have, up to 256, and warps that have enough of
    them."""
    candidates = []
    for query_rows, tile, num_stages in itertools.product((16, 32, 64, 128, 256), (32, 64, 128), (2, 3, 4)):
        if query_rows > call.max_query_rows:
            continue
        block_tokens = max(1, query_rows // call.padded_group)
        for num_warps in {16: (4,), 32: (4,), 64: (4,), 128: (8,), 256: (8, 16)}[query_rows]:
            splits = _num_splits(call, block_tokens)
            candidates.append(ExtendBlocks(block_tokens, tile, splits, num_warps, num_stages))
    return list(dict.fromkeys(candidates))


def fitting_tile(tile: int, head_dim: int, itemsize: int, *, num_stages: int) -> int:
    """Halves `tile` until the keys and values in flight fit into shared memory."""
    while tile > MIN_DOT_SIZE and 2 * num_stages * tile * head_dim * itemsize > SHARED_MEMORY_BYTES:
        tile //= 2
    return tile
