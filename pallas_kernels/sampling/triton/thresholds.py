"""The thresholds of the filters of a row: a logit that top_k asks for, and a weight that top_p and min_p ask
for.

Weights are probabilities relative to the largest, so that min_p is one already.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.sampling.triton.elements import Elements
from pallas_kernels.sampling.triton.random import ONE_BITS
from pallas_kernels.sampling.triton.row import Row
from pallas_kernels.sampling.triton.search import (
    bits_of,
    largest_threshold,
    number_of,
    number_of_ordered,
    ordered_bits,
)

# A bound is any number that the threshold cannot be below: a few bits will do.
LAST_BIT_OF_LOGIT = 12
LAST_BIT_OF_WEIGHT = 18
SLACK = 16  # the fast exponential of a larger number may be smaller by a bit or two


@dataclass(frozen=True)
class Thresholds:
    """A token at or above both is kept. They are compared as numbers: 0 and -0, whose bits differ, are
    equal."""

    logit: Array
    weight: Array

    def keeps(self, logits: Array, weights: Array) -> Array:
        return (logits > -jnp.inf) & (logits >= self.logit) & (weights >= self.weight)


def bound(row: Row, largest: Array, sums: Array, slice_size: int) -> Thresholds:
    """Lower bounds of the exact thresholds, from the slices' largest logits and sums of weights.

    The k-th largest logit is no less than the k-th largest of the slices. Of a slice with sum s at least s -
    t * size is in weights from t on, which bounds the weight that top_p asks for. After top_k, whose k
    largest must all be seen, nothing bounds the weight.
    """

    def kth_largest():
        keys = ordered_bits(largest)
        measure = _measure_of(keys, jnp.ones_like(largest))
        low = ordered_bits(jnp.where(largest > -jnp.inf, largest, jnp.inf).min(0))
        enough = row.top_k.astype(jnp.float32)
        found = largest_threshold(measure, enough, low, keys.max(0), last_bit=LAST_BIT_OF_LOGIT)
        is_enough = (largest > -jnp.inf).astype(jnp.int32).sum(0) >= row.top_k
        return jnp.where(is_enough, number_of_ordered(found), -jnp.inf)

    def weight_of_tail():
        def measure(tried):
            return [jnp.maximum(sums - slice_size * number_of(t), 0).sum(0) for t in tried]

        zero = jnp.uint32(0)
        one = jnp.uint32(ONE_BITS)
        enough = row.top_p * sums.sum(0)
        return number_of(largest_threshold(measure, enough, zero, one, last_bit=LAST_BIT_OF_WEIGHT))

    of_all = row.has_top_p & ~row.has_top_k
    logit = jax.lax.cond(row.has_top_k, kth_largest, lambda: largest.max(0))
    weight = jax.lax.cond(of_all, weight_of_tail, lambda: row.min_p)
    return Thresholds(
        jnp.where(row.has_top_k, logit, -jnp.inf), jnp.where(row.has_top_k, 0, jnp.maximum(weight, row.min_p))
    )


def exact(row: Row, elements: Elements, row_largest: Array, bound: Thresholds, total: Array) -> Thresholds:
    """The thresholds, from the elements that reach the bound. `total` is the sum of all weights, where top_k
    keeps all.

    What top_k left is what top_p counts.
    """
    logit = jax.lax.cond(
        row.has_top_k, lambda: _kth_largest(row, elements, row_largest, bound), lambda: bound.logit
    )
    left = Thresholds(logit, bound.weight)

    def of_top_p():
        return _weight_of_top_p(row, elements, row_largest, left, total)

    weight = jax.lax.cond(row.has_top_p, of_top_p, lambda: bound.weight)
    return Thresholds(logit, jnp.maximum(weight, row.min_p))


def _kth_largest(row, elements, row_largest, bound):
    def keys_and_ones(logits):
        return ordered_bits(logits), jnp.where(logits > -jnp.inf, 1.0, 0.0)

    enough = row.top_k.astype(jnp.float32)
    measure = _measure_over(elements, keys_and_ones)
    low = ordered_bits(bound.logit)
    high = ordered_bits(row_largest)
    return number_of_ordered(largest_threshold(measure, enough, low, high, least=lambda t: jnp.float32(1)))


def _weight_of_top_p(row, elements, row_largest, left, total):
    """The largest weight such that what is at or above it adds up to top_p of what is left."""

    def keys_and_weights(logits):
        weights = row.weight(logits, row_largest)
        weights = jnp.where(left.keeps(logits, weights), weights, 0)
        return bits_of(weights), weights

    measure = _measure_over(elements, keys_and_weights)
    weight_of_logit = row.weight(jnp.full((1,), left.logit), row_largest).max(0)
    low = bits_of(jnp.where(row.has_top_k, weight_of_logit, left.weight))
    low = jnp.where(row.has_top_k, jnp.maximum(low, jnp.uint32(SLACK)) - jnp.uint32(SLACK), low)
    total = jax.lax.cond(row.has_top_k, lambda: measure([jnp.uint32(0)])[0], lambda: total)
    found = largest_threshold(measure, row.top_p * total, low, jnp.uint32(ONE_BITS), least=number_of)
    return number_of(found)


def _measure_of(keys, values):
    def measure(tried):
        return [jnp.where(keys >= t, values, 0).sum(0) for t in tried]

    return measure


def _measure_over(elements, keys_and_values):
    """The sum of values whose keys reach a threshold, for each of several thresholds."""

    def measure(tried):
        def one_chunk(chunk, totals):
            keys, values = keys_and_values(elements.load(chunk)[0])
            return [total + jnp.where(keys >= t, values, 0) for total, t in zip(totals, tried, strict=True)]

        nothing = [jnp.zeros((elements.size,), jnp.float32)] * len(tried)
        return [total.sum(0) for total in jax.lax.fori_loop(0, elements.num_chunks, one_chunk, nothing)]

    return measure
