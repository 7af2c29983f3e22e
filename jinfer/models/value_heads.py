"""Heads that attention does not take as a projection leaves them: values with a norm, or that are keys; and
queries of layers without keys of their own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jinfer.models.config import AttentionConfig
from jinfer.models.rope import Angles


def with_values(
    heads: Float[Array, "tokens projected_heads head_dim"], config: AttentionConfig, epsilon: float
) -> Float[Array, "tokens num_heads_plus_2_num_kv_heads head_dim"]:
    """Queries, keys and values of a projection whose last heads are the values, or the keys that are values
    too."""
    if not (config.keys_are_values or config.has_value_norm):
        return heads
    values = heads[:, -config.num_kv_heads :]
    if config.has_value_norm:
        values = _normalized(values, epsilon).astype(heads.dtype)
    return jnp.concatenate([heads[:, : config.num_heads + config.num_kv_heads], values], axis=1)


def turned_queries(
    q: Float[Array, "tokens num_heads head_dim"],
    scale: Float[Array, " head_dim"] | None,
    epsilon: float,
    angles: Angles,
) -> Float[Array, "tokens num_heads head_dim"]:
    """Queries with their norm, if there is one, turned by the tokens' angles in pairs that are half of the
    turned dimensions apart: in float32, and rounded once."""
    cos, sin = (each[:, None] for each in angles)
    half = cos.shape[-1]
    x = q.astype(jnp.float32)
    if scale is not None:
        x = _normalized(x, epsilon) * scale.astype(jnp.float32)
    first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(q.dtype)


def _normalized(x: Array, epsilon: float) -> Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)
