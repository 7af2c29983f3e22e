"""Norm, rotation and cache write of latent attention in plain jax.numpy and float32."""

import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.latent_pages import LatentPages


def latent_cache_write(
    q: Array,
    latent: Array,
    kv_pages: LatentPages,
    *,
    angles: tuple[Array, Array],
    slots: tuple[Array, Array],
    scale: Array,
    epsilon: float,
    layer: int | Array | None,
    interleaved: bool,
) -> tuple[Array, LatentPages]:
    """See `pallas_kernels.latent_cache_write.latent_cache_write`."""
    cos, sin = angles
    scale = scale if layer is None else scale[layer]
    rope_dim = 2 * cos.shape[1]
    c, key = jnp.split(latent.astype(jnp.float32), [latent.shape[1] - rope_dim], axis=1)
    c = c / jnp.sqrt(jnp.mean(c**2, axis=-1, keepdims=True) + epsilon) * scale.astype(jnp.float32)
    key = _turned(key, cos, sin, interleaved=interleaved)
    queries = q[..., q.shape[-1] - rope_dim :].astype(jnp.float32)
    queries = _turned(queries, cos[:, None], sin[:, None], interleaved=interleaved)
    written = kv_pages.with_written(jnp.concatenate([c, key], axis=-1), *slots)
    return queries.astype(kv_pages.dtype), written


def _turned(x: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    half = cos.shape[-1]
    first, second = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    pairs = jnp.stack(
        [first * cos - second * sin, second * cos + first * sin], axis=-1 if interleaved else -2
    )
    return pairs.reshape(x.shape)
