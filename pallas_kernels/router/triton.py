"""Routing in Pallas on Triton: a warp has the scores of a token, and takes their largest one after another.

A sort of all scores, which XLA makes of `top_k`, is several kernels.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import next_power_of_two, triton_call
from pallas_kernels.router.options import RouterOptions


@dataclass(frozen=True)
class RouterShape:
    """The facts of a call that the kernel is compiled for."""

    num_experts: int
    options: RouterOptions
    has_bias: bool

    @property
    def group_size(self) -> int:
        return self.num_experts // self.options.num_groups

    @property
    def orders_by_logits(self) -> bool:
        return self.options.orders_by_logits(self.has_bias)


class _Experts(NamedTuple):
    """[experts] of a token: their numbers, their scores, what they are chosen by, and whether they can be
    chosen."""

    number: Array
    scores: Array
    by: Array
    is_free: Array


def route(
    logits: Array, options: RouterOptions, correction_bias: Array | None, *, interpret: bool
) -> tuple[Array, Array]:
    """See `pallas_kernels.router.route`."""
    shape = RouterShape(logits.shape[1], options, correction_bias is not None)
    operands = [logits] if correction_bias is None else [logits, correction_bias]
    return _run(operands, shape=shape, interpret=interpret)


@functools.partial(jax.jit, static_argnames=("shape", "interpret"))
def _run(operands: list[Array], *, shape: RouterShape, interpret: bool) -> tuple[Array, Array]:
    num_tokens = operands[0].shape[0]
    of_tokens = num_tokens, shape.options.top_k
    weights, expert_ids = triton_call(
        functools.partial(_kernel, shape=shape),
        *operands,
        out_shape=[jax.ShapeDtypeStruct(of_tokens, dtype) for dtype in (jnp.float32, jnp.int32)],
        grid=(num_tokens,),
        num_warps=1,
        num_stages=1,
        interpret=interpret,
        name="route",
    )
    return weights, expert_ids


def _kernel(logits_ref, *refs, shape: RouterShape):
    *bias_refs, weights_ref, ids_ref = refs
    token, options = pl.program_id(0), shape.options
    experts = _load(logits_ref, bias_refs, token, shape)
    if options.is_grouped:
        experts = experts._replace(is_free=experts.is_free & _is_in_best_groups(experts, shape))
    slot = jnp.arange(next_power_of_two(options.top_k))
    scores, ids = jnp.full(slot.shape, -jnp.inf), jnp.zeros(slot.shape, jnp.int32)
    for place in range(options.top_k):
        expert = _best(experts.by, experts.is_free, experts.number)
        is_chosen = experts.number == expert
        score = jnp.max(jnp.where(is_chosen, experts.scores, -jnp.inf))
        scores, ids = jnp.where(slot == place, score, scores), jnp.where(slot == place, expert, ids)
        experts = experts._replace(is_free=experts.is_free & ~is_chosen)
    inside = slot < options.top_k
    plt.store(weights_ref.at[token, slot], _weights(scores, inside, options), mask=inside)
    plt.store(ids_ref.at[token, slot], ids, mask=inside)


def _load(logits_ref, bias_refs, token, shape: RouterShape) -> _Experts:
    number = jnp.arange(next_power_of_two(shape.num_experts))
    inside = number < shape.num_experts
    logits = plt.load(logits_ref.at[token, number], mask=inside, other=-jnp.inf).astype(jnp.float32)
    scores = logits
    if shape.options.scores == "softmax":
        exponentials = jnp.exp(logits - jnp.max(logits))
        scores = exponentials / jnp.sum(exponentials)
    elif shape.options.scores == "sigmoid":
        scores = 1 / (1 + jnp.exp(-logits))
    by = logits if shape.orders_by_logits else scores
    for bias_ref in bias_refs:
        by = by + plt.load(bias_ref.at[number], mask=inside, other=0).astype(jnp.float32)
    # NaN is equal to nothing, and -inf to the largest where there is nothing else.
    return _Experts(number, scores, jnp.where(by == by, by, -jnp.inf), inside)


def _best(by: Array, is_free: Array, number: Array) -> Array:
    """The first of the largest among those that are free."""
    largest = jnp.max(jnp.where(is_free, by, -jnp.inf))
    return jnp.min(jnp.where(is_free & (by == largest), number, number.size - 1))


def _is_in_best_groups(experts: _Experts, shape: RouterShape) -> Array:
    """A group is taken where fewer groups than are wanted are better, or as good and before it."""
    group = jax.lax.div(experts.number, shape.group_size)
    scores = [_group_score(experts, group == g, shape) for g in range(shape.options.num_groups)]
    is_in = experts.number < 0
    for g, score in enumerate(scores):
        num_better = jnp.int32(0)
        for h, other in enumerate(scores):
            is_better = other >= score if h < g else other > score
            num_better += is_better.astype(jnp.int32) if h != g else 0
        is_in = is_in | ((group == g) & (num_better < shape.options.top_groups))
    return is_in


def _group_score(experts: _Experts, is_mine: Array, shape: RouterShape) -> Array:
    best = _best(experts.by, is_mine, experts.number)
    score = jnp.max(jnp.where(experts.number == best, experts.by, -jnp.inf))
    if shape.options.group_score == "max":
        return score
    others = is_mine & (experts.number != best)
    return score + jnp.max(jnp.where(others, experts.by, -jnp.inf))


def _weights(scores: Array, inside: Array, options: RouterOptions) -> Array:
    """The weights of the chosen scores, of which `inside` says where there are some."""
    if options.scores == "softmax_of_chosen":
        exponentials = jnp.exp(scores - jnp.max(scores))
        scores = exponentials / jnp.sum(jnp.where(inside, exponentials, 0))
    if options.renormalize:
        scores = scores / (jnp.sum(jnp.where(inside, scores, 0)) + 1e-20)
    return scores * options.scaling
