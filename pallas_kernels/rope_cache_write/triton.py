"""Norm, rotation and cache write in Pallas on Triton: every head is read once and written once, in one
launch.

A program serves some heads of some tokens, of queries or of keys or of values, so that no lane computes what
another kind needs. The two columns that a rotation pairs are in two tiles [tokens, heads, half], so that no
value moves between threads. Sections of fewer heads take more tokens at once; for 32 query heads and 8 KV
heads in programs of 32 rows:

    program_id(0)       0     1     2     3        4        5
    section             q     q     q     q        k        v
    of the 4 tokens     0     1     2     3     0 to 3   0 to 3
"""

import functools
from collections.abc import Callable
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
from pallas_kernels.core.triton_call import ceil_div, triton_call
from pallas_kernels.rope_cache_write.sections import (
    HeadPart,
    HeadTile,
    SectionRows,
    divide,
    rotary_parts,
    section_rows,
    tile_of,
    where_it_serves,
)
from pallas_kernels.rope_cache_write.tuning import (
    RopeCacheWriteBlocks,
    RopeCacheWriteCall,
    rope_cache_write_blocks,
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
    interleaved: bool = False,
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
    return _run(*arguments, epsilon=epsilon, interleaved=interleaved, blocks=blocks, interpret=interpret)


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


@functools.partial(jax.jit, static_argnames=("epsilon", "interleaved", "blocks", "interpret"))
def _run(
    heads: Array,
    kv_pages: AnyKVPages,
    *others: Any,
    epsilon: float | None,
    interleaved: bool,
    blocks: RopeCacheWriteBlocks,
    interpret: bool,
) -> tuple[Array, AnyKVPages]:
    """Jitted, so that all layers of a model share one trace of the kernel."""
    num_tokens, num_outputs, head_dim = heads.shape
    num_kv_heads = kv_pages.num_kv_heads
    num_heads = num_outputs - 2 * num_kv_heads
    sections, group_tokens = divide(num_tokens, num_heads, num_kv_heads, blocks)
    pages = stored(kv_pages)
    kernel = functools.partial(
        _kernel,
        sections=sections,
        group_tokens=group_tokens,
        epsilon=epsilon,
        interleaved=interleaved,
        interpret=interpret,
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
    interleaved: bool,
    interpret: bool,
):
    q_scale_ref, k_scale_ref = scales.norm or (None, None)
    layer = scales.layer_index
    num_tokens, _, head_dim = heads_ref.shape[-3:]
    program = pl.program_id(0)
    first_token = pl.program_id(1) * group_tokens
    queries, keys, values = (section_rows(section, program, first_token, num_tokens) for section in sections)
    parts = rotary_parts(head_dim, half=cos_ref.shape[1], interleaved=interleaved)
    rotated = functools.partial(_rotated, heads_ref, (cos_ref, sin_ref), layer, epsilon)
    slots = page_ids_ref, page_offsets_ref
    write = functools.partial(_write, pages, slots, scales.kv, layer, interpret=interpret)

    @where_it_serves(queries.section, program)
    def _write_queries():
        tiles = [tile_of(queries, part) for part in parts]
        for tile, q in zip(tiles, rotated(tiles, q_scale_ref), strict=True):
            plt.store(q_ref.at[tile.token, tile.head, tile.column], q.astype(q_ref.dtype), mask=tile.inside)

    @where_it_serves(keys.section, program)
    def _write_keys():
        tiles = [tile_of(keys, part) for part in parts]
        write(KEYS, keys, tiles, lambda: rotated(tiles, k_scale_ref))

    @where_it_serves(values.section, program)
    def _write_values():
        tile = tile_of(values, HeadPart(0, head_dim))
        write(VALUES, values, [tile], lambda: [_load_heads(heads_ref, tile)])


def _write(
    pages: StoredPages,
    slot_refs,
    kv_scales_ref,
    layer: tuple[Array, ...],
    kind: int,
    rows: SectionRows,
    tiles: list[HeadTile],
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


def _load_slots(slot_refs, rows: SectionRows, *, num_pages: int) -> list[Array]:
    """The page and the offset in it of each token, [tokens].

    Interpret mode stores old values where a mask forbids to store: a token that is not there gets a page that
    is not there, so that it does not undo what another writes.
    """
    return [plt.load(ref.at[rows.token], mask=rows.token_inside, other=num_pages) for ref in slot_refs]


def _load_heads(heads_ref, tile: HeadTile) -> Array:
    return tile.load(heads_ref, tile.token, tile.projected_head, tile.column)


def _rotated(heads_ref, angle_refs, layer, epsilon: float, tiles: list[HeadTile], scale_ref) -> list[Array]:
    """The heads of the tiles, normalized where there is a scale, and rotated. All is loaded before any is
    used."""
    heads = [_load_heads(heads_ref, tile) for tile in tiles]
    cos, sin = (tiles[0].load(ref, tiles[0].token, tiles[0].angle) for ref in angle_refs)
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
