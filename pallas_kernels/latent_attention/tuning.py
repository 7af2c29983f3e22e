"""Blocks of mla."""

import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import MIN_DOT_SIZE, ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key

WGMMA_HEADS = 64  # the rows of Hopper's own matrix instruction
MAX_SPLITS = 64
MIN_SPLIT_TILES = 2  # below this, a split is all start-up
PROGRAM_SHARED_MEMORY_BYTES = 227 * 1024
MULTIPROCESSOR_SHARED_MEMORY_BYTES = 228 * 1024
RESERVED_SHARED_MEMORY_BYTES = 1024  # by CUDA, for each program
MAX_RESIDENT_PROGRAMS = 4  # what registers leave of those that shared memory would hold

# (heads, tile, num_warps, num_stages, early_loads), for 16 bits; all without spills at 512 + 64 dimensions
WGMMA_CANDIDATES = (
    (64, 64, 8, 3, True),
    (64, 64, 8, 3, False),
    (64, 32, 8, 5, True),
    (64, 32, 8, 5, False),
    (64, 32, 8, 3, True),
)
MMA_CANDIDATES = (
    (16, 64, 4, 3, False),
    (16, 64, 8, 3, False),
    (16, 64, 8, 5, False),
    (16, 32, 4, 3, False),
    (16, 32, 4, 5, False),
    (16, 32, 4, 7, False),
    (16, 16, 4, 7, False),
    (32, 64, 8, 3, False),
    (32, 64, 8, 5, False),
    (32, 32, 8, 5, False),
)


@dataclass(frozen=True)
class MlaBlocks:
    """A program serves `heads` heads of one row, reads `tile` positions per iteration, and shares the row
    with `num_splits` - 1 others.

    `num_stages` counts those of the pipeline, of which the page ids of a tile take as many as the tile
    itself: 3 loads one tile ahead, 5 two and 7 three. `early_loads` starts the loads of the next tile before
    the softmax of this one, and not after it; for wgmma alone.
    """

    heads: int
    tile: int
    num_splits: int
    num_warps: int
    num_stages: int
    early_loads: bool
    tokens: int = 1
    """Tokens of a prompt that a program serves, without splits."""

    @property
    def queries(self) -> int:
        """Rows of a program's matmuls."""
        return self.tokens * self.heads


class MlaCall(NamedTuple):
    """The facts that the choice of blocks depends on. `max_positions` is what a row's page table can hold."""

    rows: int
    num_heads: int
    latent_dim: int
    rope_dim: int
    page_size: int
    max_positions: int
    itemsize: int
    is_of_prompts: bool | None = None
    """True where queries name their rows."""

    @classmethod
    def of(
        cls,
        q_latent: Array,
        q_rope: Array,
        kv_pages: Array,
        page_table: Array,
        is_of_prompts: bool | None = None,
    ) -> "MlaCall":
        """The call with these arguments of `mla`."""
        rows, num_heads, latent_dim = q_latent.shape
        page_size = kv_pages.shape[1]
        return cls(
            rows=rows,
            num_heads=num_heads,
            latent_dim=latent_dim,
            rope_dim=q_rope.shape[-1],
            page_size=page_size,
            max_positions=page_table.shape[1] * page_size,
            itemsize=q_latent.dtype.itemsize,
            is_of_prompts=is_of_prompts,
        )

    @property
    def cache_dim(self) -> int:
        """Elements of a position of the cache: its latent vector and its rotary key."""
        return self.latent_dim + self.rope_dim


def mla_blocks(call: MlaCall) -> MlaBlocks:
    """Tuned numbers where there are any; else 64 heads a program for wgmma, fewer where a call has fewer or
    the dtype is wider, and splits that fill the machine once."""
    found = tuned_blocks("latent_attention", "mla", mla_key(call), MlaBlocks)
    if found is not None:
        return found
    heads = max(MIN_DOT_SIZE, next_power_of_two(call.num_heads))
    tokens = WGMMA_HEADS // heads
    if call.is_of_prompts and call.itemsize == 2 and tokens > 1 and _fills(call.rows // tokens):
        blocks = MlaBlocks(heads, 64, 1, num_warps=8, num_stages=3, early_loads=True, tokens=tokens)
        if _fits(blocks, call):
            return blocks
    if call.itemsize == 2 and call.num_heads > WGMMA_HEADS // 2:
        blocks = MlaBlocks(WGMMA_HEADS, 64, num_splits=1, num_warps=8, num_stages=3, early_loads=True)
    elif call.itemsize == 2:
        blocks = MlaBlocks(heads, 64, num_splits=1, num_warps=heads // 4, num_stages=3, early_loads=False)
    else:
        blocks = MlaBlocks(MIN_DOT_SIZE, 16, num_splits=1, num_warps=4, num_stages=3, early_loads=False)
    while blocks.tile > MIN_DOT_SIZE and not _fits(blocks, call):
        blocks = replace(blocks, tile=blocks.tile // 2)
    return with_splits(blocks, 1, call)


def mla_key(call: MlaCall) -> dict[str, int]:
    """A call's tuned entry; rows and positions count as the power of two that holds them."""
    return tuned_key(call, rounded=["rows", "max_positions"])


def mla_candidates(call: MlaCall) -> list[MlaBlocks]:
    """The candidates of a sweep, each with splits that fill the machine once, twice and four times."""
    padded_heads = max(MIN_DOT_SIZE, next_power_of_two(call.num_heads))
    if call.itemsize == 2:
        tried = [x for x in WGMMA_CANDIDATES if call.num_heads > MIN_DOT_SIZE]
        tried += [x for x in MMA_CANDIDATES if x[0] <= padded_heads <= 2 * x[0]]
    else:
        tried = [
            (MIN_DOT_SIZE, 16, 4, 3, False),
            (MIN_DOT_SIZE, 16, 8, 5, False),
            (MIN_DOT_SIZE, 32, 4, 3, False),
        ]
    candidates = []
    for (heads, tile, num_warps, num_stages, early_loads), waves in itertools.product(tried, (1, 2, 4)):
        blocks = MlaBlocks(
            heads=heads,
            tile=tile,
            num_splits=1,
            num_warps=num_warps,
            num_stages=num_stages,
            early_loads=early_loads,
        )
        if _fits(blocks, call):
            candidates.append(with_splits(blocks, waves, call))
    return list(dict.fromkeys(candidates))


def with_splits(blocks: MlaBlocks, waves: int, call: MlaCall) -> MlaBlocks:
    """The blocks with as many splits as the machine can run programs at once, `waves` times over."""
    bytes_taken = shared_memory_bytes(blocks, call.cache_dim, call.itemsize) + RESERVED_SHARED_MEMORY_BYTES
    resident = max(1, min(MAX_RESIDENT_PROGRAMS, MULTIPROCESSOR_SHARED_MEMORY_BYTES // bytes_taken))
    unsplit = call.rows * ceil_div(call.num_heads, blocks.heads)
    wanted = waves * resident * target_device().num_multiprocessors // unsplit
    max_splits = min(MAX_SPLITS, ceil_div(call.max_positions, MIN_SPLIT_TILES * blocks.tile))
    return replace(blocks, num_splits=max(1, min(wanted, max_splits)))


def _fills(num_programs: int) -> bool:
    """True where programs are so many that none need share a row."""
    return num_programs >= target_device().num_multiprocessors


def _fits(blocks: MlaBlocks, call: MlaCall) -> bool:
    return shared_memory_bytes(blocks, call.cache_dim, call.itemsize) <= PROGRAM_SHARED_MEMORY_BYTES


def shared_memory_bytes(blocks: MlaBlocks, cache_dim: int, itemsize: int) -> int:
    """The queries, the tiles of which wgmma takes one more, and the weights on their way between warps."""
    queries = blocks.queries
    tiles = (blocks.num_stages - 1) // 2 + uses_wgmma(queries, blocks.num_warps, itemsize)
    return itemsize * (cache_dim * (queries + tiles * blocks.tile) + queries * blocks.tile) + 1024


def uses_wgmma(heads: int, num_warps: int, itemsize: int) -> bool:
    """True where Triton takes Hopper's own matrix instruction for a program's matmuls, and two buffers for
    tiles."""
    return heads >= WGMMA_HEADS and num_warps >= 4 and itemsize == 2
