"""The facts that the kernel is compiled for, its operands, and its arrays in shared memory."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from pallas_kernels.core.triton_call import LOG2_E
from pallas_kernels.paged_attention.extend.mosaic.barriers import WARPS

QUERY_ROWS = 64  # (token, head) rows of a warpgroup: Hopper's matmul has as many
ATTENDING = 2  # warpgroups that attend; one more loads
CHUNK = 64  # 16-bit elements of a row that follow one another in shared memory, 128 bytes
NUM_STAGES = 2  # tiles of keys, and of values, in shared memory
NUM_QUERY_TILES = 2  # the queries of a piece of work arrive while the piece before is attended


@dataclass(frozen=True)
class Shape:
    """`heads` of one group and `tokens` are the rows of a warpgroup; `tile` positions are attended at
    once."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    num_pages: int
    heads: int
    tile: int
    scale: float
    num_programs: int

    @property
    def tokens(self) -> int:
        return QUERY_ROWS // self.heads

    @property
    def block_tokens(self) -> int:
        """Query tokens of a piece of work."""
        return ATTENDING * self.tokens

    @property
    def head_blocks(self) -> int:
        return self.num_heads // self.heads

    @property
    def chunks(self) -> int:
        return self.head_dim // CHUNK

    @property
    def rows_per_copy(self) -> int:
        """Positions that one copy brings: a page's, or where those are more, a tile's."""
        return min(self.page_size, self.tile)

    @property
    def log2_scale(self) -> float:
        return LOG2_E * self.scale


class Refs(NamedTuple):
    """Operands in global memory, the result, and what is in shared memory."""

    q: Any  # [tokens, num_heads, head_dim]
    kv: Any  # [2 * num_pages * page_size, num_kv_heads * head_dim], keys before values
    table: Any  # [rows, max_pages]
    work: Any  # [fields of Work but its head, blocks]
    num_blocks: Any  # [1], those that have queries
    out: Any  # like q
    q_tiles: Any  # [NUM_QUERY_TILES, chunks, ATTENDING, QUERY_ROWS, CHUNK], for results too
    k_tiles: Any  # [NUM_STAGES, tile, head_dim]
    v_tiles: Any
    barriers: Any


class Barriers:
    """The index of each group of barriers, one per stage or query tile."""

    k_full = 0
    v_full = k_full + NUM_STAGES
    q_full = v_full + NUM_STAGES
    v_tail = q_full + NUM_QUERY_TILES
    k_free = v_tail + 1
    v_free = k_free + NUM_STAGES
    q_free = v_free + NUM_STAGES
    # The arrivals that complete each: one of the thread that starts copies, and one of each warp that used
    # the copies.
    arrivals = (1,) * k_free + (ATTENDING * WARPS,) * (2 * NUM_STAGES + NUM_QUERY_TILES)


class Work(NamedTuple):
    """A block of query tokens of one row, and some of the query heads of one group."""

    row: Any  # of the page table
    token: Any  # where the block's first query token is in the flattened batch
    num_queries: Any  # from there to the end of the row, and so perhaps more than a block
    position: Any  # of that token in its row
    length: Any  # of the row
    head: Any  # the first

    def num_tiles(self, shape: Shape):
        """The tiles of positions that any of its queries sees; 0 for padding tokens, whose length is 0."""
        end = jnp.minimum(self.length, self.position + shape.block_tokens)
        return div(jnp.maximum(end, 0) + shape.tile - 1, shape.tile)

    def of_warpgroup(self, warpgroup, shape: Shape) -> "Work":
        """The share of one of the attending warpgroups; `num_queries` may be negative."""
        first = warpgroup * shape.tokens
        return self._replace(
            token=self.token + first, num_queries=self.num_queries - first, position=self.position + first
        )


def div(a, b: int):
    """a // b for a >= 0: `//` would add instructions for negative numbers."""
    return lax.div(a, jnp.int32(b))


def rem(a, b: int):
    """a % b for a >= 0."""
    return lax.rem(a, jnp.int32(b))


def slot_and_phase(count, num_slots: int):
    """The slot in a ring of the count-th thing, and the parity of its round."""
    return rem(count, num_slots), rem(div(count, num_slots), 2)


def as_int(condition):
    """1 or 0, by a selection. To convert a boolean, Mosaic asks the assembler for its version, which takes 20
    ms."""
    return jnp.where(condition, jnp.int32(1), jnp.int32(0))


def when(condition):
    """`pl.when` without the conversion of the condition, see `as_int`."""

    def run(body):
        lax.switch(as_int(condition), [lambda: None, body])

    return run
