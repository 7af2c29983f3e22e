"""Norm, rotation and cache write of latent attention in Pallas on Triton, in one launch.

A program serves some tokens: the first of a group of programs their latent vectors and keys, which it writes
into the cache, and each of the others the queries of some heads. The two columns that a rotation pairs are in
two tiles, so that no value moves between threads.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.heads import rotate
from pallas_kernels.core.latent_pages import LatentPages
from pallas_kernels.core.stacked import layer_index_operand, load_layer_index
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call
from pallas_kernels.latent_cache_write.tuning import (
    LatentCacheWriteBlocks,
    LatentCacheWriteCall,
    latent_cache_write_blocks,
)


def latent_cache_write(
    q: Array,
    latent: Array,
    kv_pages: LatentPages,
    *,
    angles: tuple[Array, Array],
    slots: tuple[Array, Array],
    scale: Array,
    epsilon: float,
    layer: int | Array | None = None,
    interleaved: bool = False,
    blocks: LatentCacheWriteBlocks | None = None,
    interpret: bool,
) -> tuple[Array, LatentPages]:
    """Programs over (the cache and the blocks of heads, blocks of tokens). See the package for the
    contract."""
    if blocks is None:
        blocks = latent_cache_write_blocks(
            LatentCacheWriteCall(
                num_tokens=q.shape[0],
                num_heads=q.shape[1],
                latent_dim=scale.shape[-1],
                rope_dim=2 * angles[0].shape[1],
                itemsize=q.dtype.itemsize,
            )
        )
    layers = None if layer is None else layer_index_operand(layer)
    statics = {"epsilon": epsilon, "interleaved": interleaved, "blocks": blocks, "interpret": interpret}
    q_rope, array = _run(q, latent, kv_pages.array, *angles, *slots, scale, layers, **statics)
    return q_rope, LatentPages(array)


@functools.partial(jax.jit, static_argnames=("epsilon", "interleaved", "blocks", "interpret"))
def _run(
    q: Array,
    latent: Array,
    pages: Array,
    *others: Any,
    epsilon: float,
    interleaved: bool,
    blocks: LatentCacheWriteBlocks,
    interpret: bool,
) -> tuple[Array, Array]:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    num_tokens, num_heads, _ = q.shape
    half = others[0].shape[1]
    kernel = functools.partial(_kernel, epsilon=epsilon, interleaved=interleaved, blocks=blocks)
    q_rope, written = triton_call(
        kernel,
        *(q, latent, pages, *others),
        out_shape=[
            jax.ShapeDtypeStruct((num_tokens, num_heads, 2 * half), q.dtype),
            jax.ShapeDtypeStruct(pages.shape, pages.dtype),
        ],
        grid=(1 + ceil_div(num_heads, blocks.heads), ceil_div(num_tokens, blocks.tokens)),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="latent_cache_write",
        input_output_aliases={2: 1},
    )
    return q_rope, written


class _Turn(NamedTuple):
    """The columns of the first and of the second of each pair, and the number of each pair."""

    first: Array
    second: Array
    pair: Array
    inside: Array

    @classmethod
    def of(cls, half: int, *, interleaved: bool) -> "_Turn":
        pair = jnp.arange(next_power_of_two(half))
        columns = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        return cls(*columns, pair, pair < half)


def _kernel(
    q_ref,
    latent_ref,
    _,
    cos_ref,
    sin_ref,
    page_ids_ref,
    page_offsets_ref,
    scale_ref,
    layer_ref,
    q_rope_ref,
    pages_ref,
    *,
    epsilon: float,
    interleaved: bool,
    blocks: LatentCacheWriteBlocks,
):
    head_block = pl.program_id(0) - 1
    token = pl.program_id(1) * blocks.tokens + jnp.arange(blocks.tokens)
    turn = _Turn.of(cos_ref.shape[1], interleaved=interleaved)
    angles = cos_ref, sin_ref

    @pl.when(head_block < 0)
    def _write_cache():
        slots = _load_slots((page_ids_ref, page_offsets_ref), token, pages_ref.shape[0], q_ref.shape[0])
        layer = () if layer_ref is None else (load_layer_index(layer_ref),)
        _write_latent(latent_ref, scale_ref, layer, pages_ref, token, slots, epsilon)
        _write_key(latent_ref, angles, pages_ref, token, slots, turn)

    @pl.when(head_block >= 0)
    def _write_queries():
        head = head_block * blocks.heads + jnp.arange(blocks.heads)
        _turn_queries(q_ref, angles, q_rope_ref, token, head, turn)


def _load_slots(refs, token: Array, num_pages: int, num_tokens: int) -> list[Array]:
    """The page and the offset in it of each token, [tokens, 1].

    Interpret mode stores old values where a mask forbids to store: a token that is not there gets a page that
    is not there, so that it does not undo what another writes.
    """
    return [plt.load(ref.at[token], mask=token < num_tokens, other=num_pages)[:, None] for ref in refs]


def _write_latent(latent_ref, scale_ref, layer, pages_ref, token, slots, epsilon: float) -> None:
    """The normalized latent vectors of the tokens."""
    latent_dim = scale_ref.shape[-1]
    row, column = jnp.broadcast_arrays(token[:, None], jnp.arange(next_power_of_two(latent_dim))[None, :])
    inside = (row < latent_ref.shape[0]) & (column < latent_dim)
    x = plt.load(latent_ref.at[row, column], mask=inside, other=0).astype(jnp.float32)
    scale = plt.load(scale_ref.at[(*layer, column)], mask=inside, other=0).astype(jnp.float32)
    inverse_root = jax.lax.rsqrt((x * x).sum(1) / latent_dim + epsilon)
    y = x * inverse_root[:, None] * scale
    plt.store(pages_ref.at[(*slots, column)], y.astype(pages_ref.dtype), mask=inside)


def _write_key(latent_ref, angle_refs, pages_ref, token, slots, turn: _Turn) -> None:
    """The turned keys of the tokens, behind their latent vectors."""
    first_column = latent_ref.shape[1] - 2 * angle_refs[0].shape[1]
    row, pair, first, second = jnp.broadcast_arrays(
        token[:, None], *_rows(turn.pair, turn.first, turn.second)
    )
    inside = (row < latent_ref.shape[0]) & turn.inside[None, :]
    columns = first_column + first, first_column + second
    parts = [plt.load(latent_ref.at[row, column], mask=inside, other=0) for column in columns]
    angles = [plt.load(ref.at[row, pair], mask=inside, other=0) for ref in angle_refs]
    for column, part in zip(columns, _turned(parts, angles), strict=True):
        plt.store(pages_ref.at[(*slots, column)], part.astype(pages_ref.dtype), mask=inside)


def _turn_queries(q_ref, angle_refs, q_rope_ref, token, head, turn: _Turn) -> None:
    """The turned parts of the queries [tokens, heads]."""
    num_tokens, num_heads, head_dim = q_ref.shape
    first_column = head_dim - 2 * angle_refs[0].shape[1]
    row, of_head, *columns = jnp.broadcast_arrays(
        token[:, None, None],
        head[None, :, None],
        *(each[None, None, :] for each in (turn.pair, turn.first, turn.second)),
    )
    pair, first, second = columns
    inside = (row < num_tokens) & (of_head < num_heads) & turn.inside[None, None, :]
    parts = [
        plt.load(q_ref.at[row, of_head, first_column + column], mask=inside, other=0)
        for column in (first, second)
    ]
    angles = [plt.load(ref.at[row, pair], mask=inside, other=0) for ref in angle_refs]
    for column, part in zip((first, second), _turned(parts, angles), strict=True):
        plt.store(q_rope_ref.at[row, of_head, column], part.astype(q_rope_ref.dtype), mask=inside)


def _rows(*columns: Array) -> list[Array]:
    return [column[None, :] for column in columns]


def _turned(parts: list[Array], angles: list[Array]) -> tuple[Array, Array]:
    (first, second), (cos, sin) = (part.astype(jnp.float32) for part in parts), angles
    return rotate(first, second, cos=cos, sin=-sin), rotate(second, first, cos=cos, sin=sin)
