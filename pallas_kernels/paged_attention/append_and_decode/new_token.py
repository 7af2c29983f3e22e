"""A row's new token in decode's kernel: its heads, fresh from the projection, normed and rotated in
registers.

A tile of heads is [heads, padded_dim], as the dots want it. A rotation needs the other column of each pair as
well, which is loaded as a second tile with these exchanged: from L1, and no value moves between threads.
Angles and scales are loaded once per head for the same reason.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.heads import KEYS, VALUES, normalize_heads, rotate
from pallas_kernels.core.kv_refs import Encoded, StoredPages
from pallas_kernels.core.online_softmax import KernelShape
from pallas_kernels.core.stacked import load_layer_index


class NewTokenRefs(NamedTuple):
    """Heads as the projection leaves them [rows, heads, head_dim], angles [rows, half] and, with a norm, its
    scales; and the fixed scales of the cache, where it has some. Pairs of columns that are `interleaved` lie
    side by side, and others half of what is rotated apart."""

    heads: Any
    cos: Any
    sin: Any
    layer: Any = None  # which of a stack of scales
    scales: tuple[Any, Any] | None = None  # of queries and of keys
    kv_scales: Any = None
    interleaved: bool = False

    @property
    def layer_index(self) -> tuple[Array, ...]:
        """The first index of scales."""
        return () if self.layer is None else (load_layer_index(self.layer),)


class RawHeads(NamedTuple):
    """Tiles [heads, padded_dim], loaded and not yet used, so that all loads are on their way at once."""

    x: Array
    partner: Array  # x with the columns of each pair exchanged
    scales: list[Array]  # of both; none without a norm


class Angles(NamedTuple):
    """Tiles [heads, padded_dim]; the sine is negative for the first column of a pair."""

    cos: Array
    sin: Array


def load_raw_heads(refs: NewTokenRefs, *, row, head: Array, kind: int, shape: KernelShape) -> RawHeads:
    """Heads [heads] of the projection's output; kind 0 has the scale of queries and 1 that of keys."""
    column, inside = _columns(head, shape)
    columns = column, _exchanged(column, refs, shape)
    layer = refs.layer_index
    x, partner = (_load(refs.heads.at[row, head[:, None], c], inside) for c in columns)
    scales = (
        [] if refs.scales is None else [_load(refs.scales[kind].at[(*layer, c)], inside) for c in columns]
    )
    return RawHeads(x, partner, scales)


def load_values(refs: NewTokenRefs, *, row, head: Array, shape: KernelShape) -> Array:
    """Heads [heads] of the projection's output as they are."""
    column, inside = _columns(head, shape)
    return _load(refs.heads.at[row, head[:, None], column], inside)


def load_fixed_scales(refs: NewTokenRefs, kv_head: Array) -> list[Array | None]:
    """The fixed scales [heads] of the keys and the values of heads; None where there are none."""
    if refs.kv_scales is None:
        return [None, None]
    return [plt.load(refs.kv_scales.at[(*refs.layer_index, kind, kv_head)]) for kind in (KEYS, VALUES)]


def load_angles(refs: NewTokenRefs, *, row, head: Array, shape: KernelShape) -> Angles:
    """The angles of a row; columns that are not rotated have an angle of 0."""
    half = refs.cos.shape[1]
    column, inside = _columns(head, shape)
    is_rotated = inside if 2 * half == shape.head_dim else column < 2 * half
    if refs.interleaved:
        angle, is_first = column // 2, column % 2 == 0
    else:
        angle, is_first = jax.lax.rem(column, jnp.int32(half)), column < half
    cos = _load(refs.cos.at[row, angle], is_rotated, other=1)
    sin = _load(refs.sin.at[row, angle], is_rotated)
    return Angles(cos, jnp.where(is_first, -sin, sin))


def rotated(heads: RawHeads, angles: Angles, *, epsilon: float, head_dim: int) -> Array:
    """The heads in float32, normed where there are scales, and rotated, as `rope_cache_write` does it."""
    x = heads.x.astype(jnp.float32)
    partner = heads.partner.astype(jnp.float32)
    if heads.scales:
        x, partner = normalize_heads(
            (x, partner),
            heads.scales,
            sum_of_squares=(x * x).sum(1),
            head_dim=head_dim,
            epsilon=epsilon,
        )
    return rotate(x, partner, cos=angles.cos, sin=angles.sin)


def store_new_token(
    pages: StoredPages,
    table_ref,
    *,
    row,
    position,
    kv_head: Array,
    is_first: Array,
    k: Encoded,
    v: Encoded,
    shape: KernelShape,
) -> None:
    """Keys and values of the heads [heads] where `is_first`, once for each KV head, at the position.

    Interpret mode stores old values where a mask forbids to store. Masked values therefore get a page that
    does not exist, so that they do not undo the others.
    """
    page = jnp.where(is_first, table_ref[row, shape.page_index(position)], pages.num_pages)
    offset = shape.page_offset(position)
    column, inside = _columns(kv_head, shape)
    mask = is_first[:, None] if inside is None else is_first[:, None] & inside
    mask = jnp.broadcast_to(mask, column.shape)
    for kind, encoded in ((KEYS, k), (VALUES, v)):
        (part,) = encoded.parts
        pages.store(kind, page[:, None], offset, kv_head[:, None], column, part, mask=mask)
        pages.store_scale(kind, page, offset, kv_head, encoded, mask=is_first)


def _load(ref, inside: Array | None, other: int = 0) -> Array:
    """The values of an indexed reference, and `other` outside; `inside` is None where all of it is there."""
    return plt.load(ref, mask=inside, other=None if inside is None else other)


def _columns(head: Array, shape: KernelShape) -> tuple[Array, Array | None]:
    """Columns [heads, padded_dim], and which of them there are; None for all."""
    column = jnp.broadcast_to(jnp.arange(shape.padded_dim)[None, :], (head.shape[0], shape.padded_dim))
    return column, None if shape.head_dim == shape.padded_dim else column < shape.head_dim


def _exchanged(column: Array, refs: NewTokenRefs, shape: KernelShape) -> Array:
    """The column that each is rotated with; itself where there is none."""
    half = refs.cos.shape[1]
    exchanged = column ^ 1 if refs.interleaved else jax.lax.rem(column + half, jnp.int32(2 * half))
    return exchanged if 2 * half >= shape.head_dim else jnp.where(column < 2 * half, exchanged, column)
