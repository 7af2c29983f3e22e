"""Norm, rotation and cache write in Pallas on Triton: every head is read once and written once, in one
launch.

A program serves some heads of some tokens, of queries or of keys or of values, so that no lane computes what
another kind needs. The two halves that a rotation pairs are two tiles [tokens, heads, half], so that no value
moves between threads. Sections of fewer heads take more tokens at once; for 32 query heads and 8 KV heads in
programs of 32 rows:

    program_id(0)       0     1     2     3        4        5
    section             q     q     q     q        k        v
    of the 4 tokens     0     1     2     3     0 to 3   0 to 3
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.heads import KEYS, VALUES, normalize_heads, rotate
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.kv_refs import StoredPages, as_pages, shapes_of, stored
from pallas_kernels.core.stacked import layer_index_operand, load_layer_index
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two, triton_call
from pallas_kernels.rope_cache_write.tuning import (
    RopeCacheWriteBlocks,
    RopeCacheWriteCall,
    rope_cache_write_blocks,
    section_heads,
)


def rope_cache_write(
    heads: Array,
    kv_pages: AnyKVPages,
    *,
    angles: tuple[Array, Array],
    slots: tuple[Array, Array],
    norm: tuple[Array, Array, float] | None,
    kv_scales: Array | None = None,
    layer: int | Array | None = None,
    blocks: RopeCacheWriteBlocks | None = None,
    interpret: bool,
) -> tuple[Array, AnyKVPages]:
    """Programs over (the blocks of a group of tokens, the groups). See the package for the contract."""
    if blocks is None:
        blocks = rope_cache_write_blocks(RopeCacheWriteCall.of(heads, kv_pages, angles[0]))
    layers = None if layer is None else layer_index_operand(layer)
    scales = _Scales(layers, None if norm is None else norm[:2], kv_scales)
    epsilon = None if norm is None else norm[2]
    arguments = heads, kv_pages, *angles, *slots, scales
    return _run(*arguments, epsilon=epsilon, blocks=blocks, interpret=interpret)


class _Scales(NamedTuple):
    """The scales of the norm of queries and keys, and the fixed ones of the cache, of a layer; and which of a
    stack they are."""

    layer: Any
    norm: tuple[Any, Any] | None
    kv: Any

    @property
    def layer_index(self) -> tuple[Array, ...]:
        """The first index of scales, in a kernel."""
        return () if self.layer is None else (load_layer_index(self.layer),)


@functools.partial(jax.jit, static_argnames=("epsilon", "blocks", "interpret"))
def _run(
    heads: Array,
    kv_pages: AnyKVPages,
    *others: Any,
    epsilon: float | None,
    blocks: RopeCacheWriteBlocks,
    interpret: bool,
) -> tuple[Array, AnyKVPages]:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    num_tokens, num_outputs, head_dim = heads.shape
    num_kv_heads = kv_pages.num_kv_heads
    num_heads = num_outputs - 2 * num_kv_heads
    sections, group_tokens = _divide(num_tokens, num_heads, num_kv_heads, blocks)
    pages = stored(kv_pages)
    kernel = functools.partial(
        _kernel, sections=sections, group_tokens=group_tokens, epsilon=epsilon, interpret=interpret
    )
    q, written = triton_call(
        kernel,
        *(heads, pages, *others),
        out_shape=[
            jax.ShapeDtypeStruct((num_tokens, num_heads, head_dim), kv_pages.dtype),
            shapes_of(pages),
        ],
        grid=(sections[-1].programs.stop, ceil_div(num_tokens, group_tokens)),
        num_warps=blocks.num_warps,
        num_stages=1,
        interpret=interpret,
        name="rope_cache_write",
        input_output_aliases={1: 1},
    )
    return q, as_pages(written, kv_pages)


@dataclass(frozen=True)
class _Section:
    """Queries, keys or values: their heads in the projection's output, a program's share, the programs of a
    group."""

    first_head: int
    num_heads: int
    block_heads: int
    block_tokens: int
    programs: range


def _divide(
    num_tokens: int, num_heads: int, num_kv_heads: int, blocks: RopeCacheWriteBlocks
) -> tuple[list[_Section], int]:
    """The three sections, and the tokens of a group: the most that a program of any section serves."""
    sizes = num_heads, num_kv_heads, num_kv_heads
    block_heads = [section_heads(size, blocks) for size in sizes]
    block_tokens = [min(blocks.rows // block, next_power_of_two(num_tokens)) for block in block_heads]
    group_tokens = max(block_tokens)
    sections: list[_Section] = []
    first_head = first_program = 0
    for size, block, tokens in zip(sizes, block_heads, block_tokens, strict=True):
        programs = range(first_program, first_program + ceil_div(size, block) * (group_tokens // tokens))
        sections.append(_Section(first_head, size, block, tokens, programs))
        first_head = first_head + size
        first_program = programs.stop
    return sections, group_tokens


class _ProgramRows(NamedTuple):
    """The share of a program: tokens [tokens] and heads [heads] within the section, and which of them there
    are."""

    section: _Section
    token: Array
    token_inside: Array
    head: Array
    head_inside: Array


class _Tile(NamedTuple):
    """Some columns of the rows: indices [tokens, heads, columns], and which of them there are.

    The tokens' angles and the columns' scales are loaded by these as well, once per head: the repeated reads
    come from L1, and every value lands in the thread that needs it. Loaded once, they go through shared
    memory, one barrier after another.
    """

    token: Array
    head: Array  # within the section
    projected_head: Array  # within the projection's output
    column: Array
    inside: Array

    def load(self, ref, *index: Array) -> Array:
        """ref[*index], and zero outside."""
        return plt.load(ref.at[index], mask=self.inside, other=0)


def _kernel(
    heads_ref,
    _,
    cos_ref,
    sin_ref,
    page_ids_ref,
    page_offsets_ref,
    scales: _Scales,
    q_ref,
    pages,
    *,
    sections,
    group_tokens,
    epsilon,
    interpret: bool,
):
    q_scale_ref, k_scale_ref = scales.norm or (None, None)
    layer = scales.layer_index
    num_tokens, _, head_dim = heads_ref.shape[-3:]
    program = pl.program_id(0)
    first_token = pl.program_id(1) * group_tokens
    queries, keys, values = (_program_rows(section, program, first_token, num_tokens) for section in sections)
    parts = _rotary_parts(head_dim, half=cos_ref.shape[1])
    rotated = functools.partial(_rotated, heads_ref, (cos_ref, sin_ref), layer, epsilon)
    slots = page_ids_ref, page_offsets_ref
    write = functools.partial(_write, pages, slots, scales.kv, layer, interpret=interpret)

    @_where_it_serves(queries.section, program)
    def _write_queries():
        tiles = [_tile(queries, *part) for part in parts]
        for tile, q in zip(tiles, rotated(tiles, q_scale_ref), strict=True):
            plt.store(q_ref.at[tile.token, tile.head, tile.column], q.astype(q_ref.dtype), mask=tile.inside)

    @_where_it_serves(keys.section, program)
    def _write_keys():
        tiles = [_tile(keys, *part) for part in parts]
        write(KEYS, keys, tiles, lambda: rotated(tiles, k_scale_ref))

    @_where_it_serves(values.section, program)
    def _write_values():
        tile = _tile(values, 0, head_dim)
        write(VALUES, values, [tile], lambda: [_load_heads(heads_ref, tile)])


def _write(
    pages: StoredPages,
    slot_refs,
    kv_scales_ref,
    layer: tuple[Array, ...],
    kind: int,
    rows: "_ProgramRows",
    tiles: list["_Tile"],
    heads_of: Callable[[], list[Array]],
    *,
    interpret: bool,
) -> None:
    """Keys or values of the rows, which `heads_of` loads after the slots, into their slots."""
    page, offset = _load_slots(slot_refs, rows, num_pages=pages.num_pages)
    fixed_scale = None
    if kv_scales_ref is not None:
        fixed_scale = plt.load(kv_scales_ref.at[(*layer, kind, rows.head)], mask=rows.head_inside, other=1)
    encoded = pages.encode(heads_of(), fixed_scale=fixed_scale, interpret=interpret)
    for tile, part in zip(tiles, encoded.parts, strict=True):
        slot = page[:, None, None], offset[:, None, None]
        pages.store(kind, *slot, tile.head, tile.column, part, mask=tile.inside)
    page, offset, head = jnp.broadcast_arrays(page[:, None], offset[:, None], rows.head[None])
    inside = rows.token_inside[:, None] & rows.head_inside[None]
    pages.store_scale(kind, page, offset, head, encoded, mask=inside)


def _where_it_serves(section: _Section, program: Array):
    return pl.when((program >= section.programs.start) & (program < section.programs.stop))


def _program_rows(section: _Section, program: Array, first_token: Array, num_tokens: int) -> _ProgramRows:
    head_blocks = ceil_div(section.num_heads, section.block_heads)
    block = program - section.programs.start
    token = first_token + block // head_blocks * section.block_tokens + jnp.arange(section.block_tokens)
    head = block % head_blocks * section.block_heads + jnp.arange(section.block_heads)
    return _ProgramRows(section, token, token < num_tokens, head, head < section.num_heads)


def _rotary_parts(head_dim: int, half: int) -> list[tuple[int, int]]:
    """(first column, columns) of the halves that are rotated and, where the rotation is partial, of the
    rest."""
    halves = [(0, half), (half, half)]
    return halves if 2 * half == head_dim else [*halves, (2 * half, head_dim - 2 * half)]


def _tile(rows: _ProgramRows, first_column: int, num_columns: int) -> _Tile:
    column = jnp.arange(next_power_of_two(num_columns))
    inside = _spread(rows.token_inside, rows.head_inside, column < num_columns)
    token, head, column = _spread(rows.token, rows.head, first_column + column)
    return _Tile(
        token, head, rows.section.first_head + head, column, functools.reduce(jnp.logical_and, inside)
    )


def _spread(token: Array, head: Array, column: Array) -> list[Array]:
    return jnp.broadcast_arrays(token[:, None, None], head[None, :, None], column[None, None, :])


def _load_slots(slot_refs, rows: _ProgramRows, *, num_pages: int) -> list[Array]:
    """The page and the offset in it of each token, [tokens].

    Interpret mode stores old values where a mask forbids to store: a token that is not there gets a page that
    is not there, so that it does not undo what another writes.
    """
    return [plt.load(ref.at[rows.token], mask=rows.token_inside, other=num_pages) for ref in slot_refs]


def _load_heads(heads_ref, tile: _Tile) -> Array:
    return tile.load(heads_ref, tile.token, tile.projected_head, tile.column)


def _rotated(heads_ref, angle_refs, layer, epsilon: float, tiles: list[_Tile], scale_ref) -> list[Array]:
    """The heads of the tiles, normalized where there is a scale, and rotated. All is loaded before any is
    used."""
    heads = [_load_heads(heads_ref, tile) for tile in tiles]
    cos, sin = (tiles[0].load(ref, tiles[0].token, tiles[0].column) for ref in angle_refs)
    scales = [] if scale_ref is None else [tile.load(scale_ref, *layer, tile.column) for tile in tiles]
    x = [part.astype(jnp.float32) for part in heads]
    if scales:
        x = normalize_heads(
            x, scales, sum_of_squares=_sum_of_squares(x), head_dim=heads_ref.shape[-1], epsilon=epsilon
        )
    first, second, *rest = x
    return [rotate(first, second, cos=cos, sin=-sin), rotate(second, first, cos=cos, sin=sin), *rest]


def _sum_of_squares(x: list[Array]) -> Array:
    first, second, *rest = x
    total = (first * first + second * second).sum(2)  # the halves in one reduction
    for part in rest:
        total += (part * part).sum(2)
    return total
