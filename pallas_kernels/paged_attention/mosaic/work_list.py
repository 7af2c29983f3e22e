"""Which blocks of query tokens there are: small arrays for all programs, that XLA computes once for all layers."""

import jax.numpy as jnp
from jaxtyping import Array


def work_list(query_starts: Array, lengths: Array, num_tokens: int, block_tokens: int) -> tuple[Array, Array]:
    """The fields of `Work` but its head, [fields, blocks], the newest positions first, of whatever row; and how many
    blocks have queries, [1], which are the first.

    Rows of 5, 0 and 9 tokens and lengths 50, 0 and 9 in blocks of 4 have the positions [49, 45, 8, 4, 0]. One more row
    behind the last owns the padding tokens; it has no positions, and so gives zeros. Each row may leave its last block
    partly empty, hence the number of blocks. All sums are over the last axis, which XLA fuses with what they are of.
    """
    starts = jnp.concatenate([query_starts, jnp.array([num_tokens], jnp.int32)])
    lengths = jnp.concatenate([lengths, jnp.zeros(1, jnp.int32)])
    num_rows = lengths.shape[0]
    num_queries = jnp.diff(starts)
    blocks = (num_queries + block_tokens - 1) // block_tokens
    each_row = jnp.arange(num_rows)
    end = jnp.sum(jnp.where(each_row <= each_row[:, None], blocks, 0), axis=1, dtype=jnp.int32)  # of each row's blocks
    index = jnp.arange((num_tokens + block_tokens - 1) // block_tokens + num_rows - 1, dtype=jnp.int32)

    row = jnp.sum(index[:, None] >= end, axis=1, dtype=jnp.int32)  # num_rows where no block is left
    row = jnp.minimum(row, num_rows - 1)
    first = jnp.where(row == 0, 0, end[row - 1])
    begin = (index - first) * block_tokens  # within the row
    position = lengths[row] - num_queries[row] + begin
    key = jnp.where(index < end[-1], position, jnp.iinfo(jnp.int32).min)
    comes_before = (key > key[:, None]) | ((key == key[:, None]) & (index < index[:, None]))
    place = jnp.sum(comes_before, axis=1, dtype=jnp.int32)
    order = jnp.sum(jnp.where(place == index[:, None], index, 0), axis=1, dtype=jnp.int32)

    of_page_table = jnp.minimum(row, num_rows - 2)
    fields = of_page_table, starts[row] + begin, num_queries[row] - begin, position, lengths[row]
    return jnp.stack(fields)[:, order], end[-1:]
