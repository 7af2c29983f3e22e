"""The pieces of work of a program, one after another: a block of query tokens and the heads of one group."""

import jax.numpy as jnp
from jax import lax

from pallas_kernels.paged_attention.extend.mosaic.shape import Refs, Shape, Work, as_int, div, rem


def for_each_piece(refs: Refs, shape: Shape, body, *counts):
    """body(n, work, *counts) -> counts, for this program's n-th piece; the next one's description is read
    ahead."""

    def one_piece(n, carry):
        work, *counts = carry
        return (_piece(refs, n + 1, shape), *body(n, work, *counts))

    lax.fori_loop(0, _num_pieces(refs, shape), one_piece, (_piece(refs, jnp.int32(0), shape), *counts))


def _num_pieces(refs: Refs, shape: Shape):
    total = refs.num_blocks[0] * shape.head_blocks
    rounds, rest = div(total, shape.num_programs), rem(total, shape.num_programs)
    return rounds + as_int(_index_in_round(rounds, shape) < rest)


def _index_in_round(n, shape: Shape):
    """The index of this program's piece in the n-th round. Pieces become shorter from round to round and
    within each; the order alternates, so that no program always has the longest of a round."""
    program = lax.axis_index("program")
    return jnp.where(rem(n, 2) == 0, program, shape.num_programs - 1 - program)


def _piece(refs: Refs, n, shape: Shape) -> Work:
    """All heads of a block, then the next block. The piece after the last one is read, and not computed."""
    index = n * shape.num_programs + _index_in_round(n, shape)
    block = jnp.minimum(div(index, shape.head_blocks), refs.work.shape[1] - 1)
    fields = [refs.work[field, block] for field in range(refs.work.shape[0])]
    return Work._make([*fields, rem(index, shape.head_blocks) * shape.heads])
