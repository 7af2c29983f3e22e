"""Rows in blocks of one group each."""

from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Int32

STATIC = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RowGroups:
    """`num_rows` rows, sorted by group and cut into blocks of up to `block_rows` rows of one group.

    Block b is of group `group_of_block[b]` and has `sizes[b]` rows, `row_ids[b * block_rows:]`; what follows
    them up to the next block is no row. The number of blocks is the largest there can be, rows // block_rows
    + min(groups, rows), so that shapes are fixed: blocks that are left over have a size of 0. Where
    `block_rows` is 1 a block is the row of its number, and `row_ids` and `sizes` are None.
    """

    group_of_block: Int32[Array, " blocks"]
    sizes: Int32[Array, " blocks"] | None
    row_ids: Int32[Array, " places"] | None
    num_rows: int = field(metadata=STATIC)
    block_rows: int = field(metadata=STATIC)

    @property
    def num_blocks(self) -> int:
        return self.group_of_block.shape[0]


def max_blocks(num_rows: int, num_groups: int, block_rows: int) -> int:
    """The blocks that any distribution of rows over groups fits into."""
    return num_rows // block_rows + min(num_groups, num_rows)
