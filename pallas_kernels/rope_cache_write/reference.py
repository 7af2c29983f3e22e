"""Norm, rotation and cache write in plain jax.numpy and float32."""

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages


def rope_cache_write(
    heads: Array,
    kv_pages: AnyKVPages,
    *,
    angles: tuple[Array, Array],
    slots: tuple[Array, Array],
    norm: tuple[Array, Array, float] | None,
    kv_scales: Array | None,
    layer: int | Array | None,
    interleaved: bool = False,
) -> tuple[Array, AnyKVPages]:
    """See `pallas_kernels.rope_cache_write.rope_cache_write`."""
    num_kv_heads = kv_pages.num_kv_heads
    num_heads = heads.shape[1] - 2 * num_kv_heads
    q, k, v = jnp.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
    q, k = q.astype(jnp.float32), k.astype(jnp.float32)
    if norm is not None:
        q_scale, k_scale, epsilon = norm
        if layer is not None:
            q_scale, k_scale = q_scale[layer], k_scale[layer]
        q, k = _normalized(q, q_scale, epsilon), _normalized(k, k_scale, epsilon)
    q, k = (_rotated(x, *angles, interleaved=interleaved) for x in (q, k))
    page_ids, page_offsets = slots
    if kv_scales is not None and layer is not None:
        kv_scales = kv_scales[layer]
    kv = jnp.stack([k, v.astype(jnp.float32)])
    written = kv_pages.with_written(kv, page_ids, page_offsets, kv_scales)
    return q.astype(kv_pages.dtype), written


def _normalized(x: Array, scale: Array, epsilon: float) -> Array:
    mean_square = jnp.mean(x**2, axis=-1, keepdims=True)
    return x / jnp.sqrt(mean_square + epsilon) * scale.astype(jnp.float32)


def _rotated(x: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    half = cos.shape[1]
    cos, sin = cos[:, None], sin[:, None]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    first, second = (
        (turned[..., ::2], turned[..., 1::2]) if interleaved else (turned[..., :half], turned[..., half:])
    )
    pairs = jnp.stack(
        [first * cos - second * sin, second * cos + first * sin], axis=-1 if interleaved else -2
    )
    return jnp.concatenate([pairs.reshape(turned.shape), rest], axis=-1)
