"""The online softmax (Dao et al., "FlashAttention", 2022), one step at a time, in kernels on Triton."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.precision import full_precision
from pallas_kernels.core.triton_call import LOG2_E, MIN_DOT_SIZE, exp2_scaled, next_power_of_two

# Finite, so that the difference of two masked scores is 0 and not NaN; and a power of two, so that the
# product with the scale is exact and that difference stays 0 where multiplication and subtraction are fused.
MASKED_SCORE = -(2.0**100)


@dataclass(frozen=True)
class KernelShape:
    """The facts of a call that a kernel is compiled for."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    scale: float
    sliding_window: int | None
    soft_cap: float | None
    dot_dtype: jnp.dtype  # of the operands of both products
    interpret: bool

    @property
    def precision(self) -> jax.lax.Precision | None:
        """The precision of both products."""
        return full_precision(self.dot_dtype)

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def padded_dim(self) -> int:
        return max(MIN_DOT_SIZE, next_power_of_two(self.head_dim))

    @property
    def log2_scale(self) -> float:
        """exp(s) of a score s that `raw_scores` gave is exp2(s * log2_scale)."""
        return LOG2_E * (self.scale if self.soft_cap is None else self.soft_cap)

    def page_index(self, position):
        """The entry of the page table that holds a position. Positions are not negative, so the
        division needs no instructions for the sign as `//` does."""
        if self.page_size & (self.page_size - 1) == 0:
            return jax.lax.shift_right_logical(position, jnp.int32(self.page_size.bit_length() - 1))
        return jax.lax.div(position, jnp.int32(self.page_size))

    def page_offset(self, position):
        """The offset of a position in its page."""
        if self.page_size & (self.page_size - 1) == 0:
            return position & (self.page_size - 1)
        return jax.lax.rem(position, jnp.int32(self.page_size))

    def window_begin(self, position):
        """The oldest position that a query at `position` sees."""
        return 0 if self.sliding_window is None else jnp.maximum(0, position - self.sliding_window + 1)


class Vectors(NamedTuple):
    """Keys or values of positions: x [n, padded_dim], each times its scale [n]; None for 1."""

    x: Array
    scale: Array | None


def raw_scores(q: Array, k: Vectors, shape: KernelShape) -> Array:
    """q . k, or tanh(scale * q . k / soft_cap) with a soft cap; both before their positive factor
    `log2_scale`."""
    return soft_capped(_times(plt.dot(q, k.x.T, precision=shape.precision), k.scale), shape)


def _times(columns: Array, scale: Array | None) -> Array:
    return columns if scale is None else columns * scale[None, :]


def soft_capped(scores: Array, shape: KernelShape) -> Array:
    """The scores, or with a soft cap tanh(x) of x = scale * scores / soft_cap.

    tanh(x) = 1 - 2 / (exp(2x) + 1), which overflows to no NaN.
    """
    if shape.soft_cap is None:
        return scores
    return 1 - 2 / (jnp.exp2(scores * (2 * LOG2_E * shape.scale / shape.soft_cap)) + 1)


def softmax_start(
    num_queries: int, *, sink: Array | None, has_sink, shape: KernelShape
) -> tuple[Array, Array, Array]:
    """The carry (accumulator, maximum in units of log 2, sum) before the first position.

    A sink [num_queries] is a score without a value; it counts where `has_sink`, once per query.
    """
    acc = jnp.zeros((num_queries, shape.padded_dim), jnp.float32)
    if sink is None:
        return (
            acc,
            jnp.full((num_queries,), MASKED_SCORE, jnp.float32),
            jnp.zeros((num_queries,), jnp.float32),
        )
    total = jnp.full((num_queries,), jnp.where(has_sink, jnp.float32(1), jnp.float32(0)))
    return acc, jnp.where(has_sink, sink.astype(jnp.float32) * LOG2_E, MASKED_SCORE), total


def softmax_step(carry: tuple[Array, Array, Array], *, scores: Array, v: Vectors, shape: KernelShape):
    """The carry after `scores` [queries, n] (from `raw_scores`, MASKED_SCORE where unseen) of n values.

    Where a query has seen no position yet, masked scores weigh 1 and not 0; the first unmasked score
    rescales them to 0.
    """
    acc, top, total = carry
    new_top = jnp.maximum(top, scores.max(1) * shape.log2_scale)
    shift = jnp.broadcast_to(new_top[:, None], scores.shape)
    weight = exp2_scaled(scores, shape.log2_scale, shift, interpret=shape.interpret)
    rescale = jnp.exp2(top - new_top)
    acc = acc * rescale[:, None] + plt.dot(
        _times(weight, v.scale).astype(v.x.dtype), v.x, precision=shape.precision
    )
    return acc, new_top, total * rescale + weight.sum(1)


def softmax_step_of_one(carry: tuple[Array, Array, Array], *, score: Array, v: Array, shape: KernelShape):
    """The carry after one position, of which each query has a score (as `raw_scores` gives it) and a value:
    [queries] and [queries, padded_dim]."""
    acc, top, total = carry
    score = score * shape.log2_scale
    new_top = jnp.maximum(top, score)
    weight, rescale = jnp.exp2(score - new_top), jnp.exp2(top - new_top)
    return acc * rescale[:, None] + weight[:, None] * v.astype(jnp.float32), new_top, total * rescale + weight


def normalized(acc: Array, total: Array) -> Array:
    """The weighted mean; zeros where nothing was seen."""
    return acc / jnp.where(total == 0, 1, total)[:, None]
