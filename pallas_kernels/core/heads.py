"""Heads as a projection leaves them: the checks of a norm and a rotation, and both in registers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.selection import UnsupportedError

KEYS, VALUES = 0, 1  # the first axis of KVPages.array


def check_heads(heads: Array, kv_pages: AnyKVPages, *, cos: Array, sin: Array) -> None:
    """Raises where a projection's output does not fit the cache or the angles."""
    if heads.ndim != 3:
        raise ValueError(f"heads has shape {heads.shape}; give [tokens, heads, head_dim]")
    num_tokens, num_outputs, head_dim = heads.shape
    num_kv_heads, cache_dim = kv_pages.num_kv_heads, kv_pages.head_dim
    if head_dim != cache_dim:
        raise ValueError(
            f"the projection has head_dim {head_dim} and the cache {cache_dim}; they must be equal"
        )
    if num_outputs <= 2 * num_kv_heads:
        raise ValueError(
            f"{num_outputs} heads hold no query: {num_kv_heads} KV heads take {2 * num_kv_heads} of them; "
            "give a token's queries, keys and values"
        )
    if cos.shape != sin.shape or cos.shape[0] != num_tokens or 2 * cos.shape[1] > head_dim:
        raise ValueError(
            f"cos has shape {cos.shape} and sin {sin.shape}; "
            f"both must be ({num_tokens}, half) with half at most {head_dim // 2}"
        )
    if heads.dtype != kv_pages.dtype:
        raise UnsupportedError(
            f"heads in {heads.dtype} and a cache in {kv_pages.dtype}: no implementation mixes dtypes"
        )


def check_norm(
    q_scale: Array | None,
    k_scale: Array | None,
    *,
    epsilon: float | None,
    layer: int | Array | None,
    has_kv_scales: bool,
    head_dim: int,
) -> tuple[Array, Array, float] | None:
    """The norm's scales and epsilon, where there is a norm."""
    if q_scale is None and k_scale is None and (layer is None or has_kv_scales):
        return None
    if q_scale is None or k_scale is None or epsilon is None:
        raise ValueError(
            "a norm needs q_scale, k_scale and epsilon; give all three, or neither scale nor layer"
        )
    scale_shape = (head_dim,) if layer is None else (*q_scale.shape[:1], head_dim)
    if q_scale.shape != scale_shape or k_scale.shape != scale_shape:
        wanted = f"({head_dim},)" if layer is None else f"(layers, {head_dim}), since there is a layer"
        raise ValueError(
            f"q_scale has shape {q_scale.shape} and k_scale {k_scale.shape}; both must be {wanted}"
        )
    if isinstance(layer, int | np.integer) and not 0 <= layer < len(q_scale):
        raise ValueError(f"layer={layer} is outside of a stack of {len(q_scale)} scales, which count from 0")
    return q_scale, k_scale, epsilon


def check_kv_scales(kv_scales: Array | None, kv_pages: AnyKVPages, *, layer: int | Array | None) -> None:
    """Raises where fixed scales do not fit the cache."""
    if kv_scales is None:
        return
    if kv_pages.quantized is None:
        raise ValueError(
            f"kv_scales are given, and a cache in {kv_pages.dtype} has no scales; leave them out, or give "
            "QuantizedKVPages"
        )
    of_layer = 2, kv_pages.num_kv_heads
    if kv_scales.shape != (of_layer if layer is None else (*kv_scales.shape[:1], *of_layer)):
        wanted = f"{of_layer}" if layer is None else f"(layers, 2, {of_layer[1]}), since there is a layer"
        raise ValueError(f"kv_scales has shape {kv_scales.shape}, and must be {wanted}")


def queries_of(heads: Array, kv_pages: AnyKVPages) -> jax.ShapeDtypeStruct:
    """The shape and dtype of the queries in a projection's output [tokens, heads, head_dim]."""
    num_tokens, num_outputs, head_dim = heads.shape
    return jax.ShapeDtypeStruct((num_tokens, num_outputs - 2 * kv_pages.num_kv_heads, head_dim), heads.dtype)


def normalize_heads(
    parts: Sequence[Array],
    scales: Sequence[Array],
    *,
    sum_of_squares: Array,
    head_dim: int,
    epsilon: float,
) -> list[Array]:
    """The RMSNorm of heads, of which the parts [..., columns] are some columns and the sums [...] of all
    columns."""
    inverse_root = jax.lax.rsqrt(sum_of_squares / head_dim + epsilon)[..., None]
    return [
        part * inverse_root * scale.astype(jnp.float32) for part, scale in zip(parts, scales, strict=True)
    ]


def rotate(x: Array, partner: Array, *, cos: Array, sin: Array) -> Array:
    """Columns of a head after the rotation; `partner` has the others of their pairs before it.

    The sine is negative for the first of a pair, and positive for the second.
    """
    return x * cos + partner * sin
