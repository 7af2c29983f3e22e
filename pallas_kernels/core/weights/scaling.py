"""Scales of groups of inputs: how they are found, and how they are spread."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

SMALLEST_MAGNITUDE = 2.0**-100  # that a scale is made for: of zeros alone, codes are zeros and not NaN


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def largest_magnitudes(
    w: Float[Array, "*layers out in"], group_size: int
) -> Float[Array, "*layers groups out"]:
    """max(abs(w)) of each group of inputs, in float32."""
    return jnp.maximum(jnp.abs(_in_groups(w, group_size)).max(-1), SMALLEST_MAGNITUDE).swapaxes(-1, -2)


def extremes(
    w: Float[Array, "*layers out in"], group_size: int
) -> tuple[Float[Array, "*layers groups out"], Float[Array, "*layers groups out"]]:
    """The least and the largest of each group of inputs, both with zero among them."""
    groups = _in_groups(w, group_size)
    least, largest = jnp.minimum(groups.min(-1), 0), jnp.maximum(groups.max(-1), 0)
    return least.swapaxes(-1, -2), largest.swapaxes(-1, -2)


def _in_groups(w: Array, group_size: int) -> Array:
    """[..., out, groups, group_size] in float32, the last group filled with zeros."""
    num_in = w.shape[-1]
    num_groups = ceil_div(num_in, group_size)
    padding = [(0, 0)] * (w.ndim - 1) + [(0, num_groups * group_size - num_in)]
    wide = jnp.pad(w.astype(jnp.float32), padding)
    return wide.reshape(*w.shape[:-1], num_groups, group_size)


def spread_groups(values: Array, group_size: int, num_in: int) -> Array:
    """[..., groups, out] of each group of inputs -> [..., out, in], the group's for each input; [..., out, 1]
    where there is one group."""
    by_output = values.swapaxes(-1, -2)
    if by_output.shape[-1] == 1:
        return by_output
    return jnp.repeat(by_output, group_size, axis=-1)[..., :num_in]


def in_order(
    w: Float[Array, "*layers in out"], permutation: Int32[Array, "*layers in"] | None
) -> Float[Array, "*layers in out"]:
    """Rows that lie by a permutation, in the order of the inputs."""
    if permutation is None:
        return w
    return jnp.take_along_axis(w, jnp.argsort(permutation, axis=-1)[..., None], axis=-2)
