"""Latent attention of several tokens of a prompt in one program, for few heads: their queries together are
the rows of both matmuls, which read each tile of the cache once for all of them.

A block of tokens that lie side by side has as many programs as tokens. Each serves those of one row, whose
first token in the block is the program's; where the token before is of the same row, there is nothing to do.
Queries of other rows are computed along and not stored.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.epilogues import store_attention
from pallas_kernels.core.online_softmax import KernelShape
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.latent_attention.tiles import Seen, attend, mean
from pallas_kernels.latent_attention.tuning import MlaBlocks

LONGEST = 2**30  # a length that no query has


def attend_tokens(
    q_latent: Array,
    q_rope: Array,
    kv_pages: Array,
    page_table: Array,
    lengths: Array,
    row_ids: Array,
    *,
    shape: KernelShape,
    blocks: MlaBlocks,
) -> Array:
    """One program per (block of heads, block of tokens, token of the block). Tokens of a row lie side by
    side."""
    num_tokens, num_heads, _ = q_latent.shape
    (out,) = triton_call(
        functools.partial(_kernel, shape=shape, blocks=blocks),
        *(q_latent, q_rope, kv_pages, page_table, lengths, row_ids),
        out_shape=[jax.ShapeDtypeStruct(q_latent.shape, q_latent.dtype)],
        grid=(ceil_div(num_heads, blocks.heads), ceil_div(num_tokens, blocks.tokens), blocks.tokens),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
        interpret=shape.interpret,
        name="latent_attention_tokens",
    )
    return out


def _kernel(
    q_latent_ref,
    q_rope_ref,
    kv_ref,
    table_ref,
    length_ref,
    row_ids_ref,
    out_ref,
    *,
    shape: KernelShape,
    blocks: MlaBlocks,
):
    num_tokens, first_token = length_ref.shape[0], pl.program_id(1) * blocks.tokens
    query = jnp.arange(blocks.queries)
    token = first_token + query // blocks.heads
    head = pl.program_id(0) * blocks.heads + query % blocks.heads
    is_query = (token < num_tokens) & (head < shape.num_heads)
    length = plt.load(length_ref.at[token], mask=token < num_tokens, other=0)
    row_id = plt.load(row_ids_ref.at[token], mask=token < num_tokens, other=-1)

    own_token = first_token + pl.program_id(2)
    row = row_ids_ref[jnp.minimum(own_token, num_tokens - 1)]
    before = row_ids_ref[jnp.maximum(own_token - 1, 0)]
    is_first = (own_token < num_tokens) & ((pl.program_id(2) == 0) | (before != row))
    ends = jnp.where((row_id == row) & is_first, length, 0)

    def store(carry: tuple[Array, Array, Array], is_stored: Array) -> None:
        store_attention(
            [out_ref],
            carry,
            row=token,
            head=head,
            is_query=is_stored,
            split=pl.program_id(2),  # of which there is none: results are whole
            shape=shape,
            normalize=mean,
        )

    @pl.when(ends.max(0) > 0)
    def _():
        all_see = jnp.where(ends > 0, ends, LONGEST).min(0)
        q = _load(q_latent_ref, token, head, is_query), _load(q_rope_ref, token, head, is_query)
        seen = Seen(jnp.int32(0), ends.max(0), ends[:, None], all_see)
        store(attend(q, row, seen, kv_ref, table_ref, shape, blocks), is_query & (ends > 0))

    @pl.when((pl.program_id(2) == 0) & (length.min(0) == 0))
    def _():
        zeros = jnp.zeros((blocks.queries,), jnp.float32)
        acc = jnp.zeros((blocks.queries, shape.head_dim), jnp.float32)
        store((acc, zeros, zeros), is_query & (length == 0))


def _load(ref, token: Array, head: Array, is_query: Array) -> Array:
    """ref[token, head, :], and zeros where there is no query."""
    column = jnp.arange(ref.shape[2])
    mask = jnp.broadcast_to(is_query[:, None], (token.shape[0], column.shape[0]))
    return plt.load(ref.at[token[:, None], head[:, None], column[None, :]], mask=mask, other=0)
