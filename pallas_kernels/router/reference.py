"""Routing in plain jax.numpy and float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.router.options import RouterOptions


def route(logits: Array, options: RouterOptions, correction_bias: Array | None) -> tuple[Array, Array]:
    """See `pallas_kernels.router.route`."""
    logits = logits.astype(jnp.float32)
    scores = logits
    if options.scores == "softmax":
        scores = jax.nn.softmax(logits, axis=-1)
    elif options.scores == "sigmoid":
        scores = jax.nn.sigmoid(logits)
    by = logits if options.orders_by_logits(correction_bias is not None) else scores
    if correction_bias is not None:
        by = by + correction_bias.astype(jnp.float32)
    if options.is_grouped:
        by = _in_best_groups(by, options)
    _, expert_ids = jax.lax.top_k(by, options.top_k)
    weights = jnp.take_along_axis(scores, expert_ids, axis=-1)
    if options.scores == "softmax_of_chosen":
        weights = jax.nn.softmax(weights, axis=-1)
    if options.renormalize:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return weights * options.scaling, expert_ids


def _in_best_groups(by: Array, options: RouterOptions) -> Array:
    """-inf for the experts of other groups."""
    groups = by.reshape(by.shape[0], options.num_groups, -1)
    best, _ = jax.lax.top_k(groups, 2 if options.group_score == "two_best" else 1)
    _, group_ids = jax.lax.top_k(best.sum(-1), options.top_groups)
    is_chosen = (group_ids[:, :, None] == jnp.arange(options.num_groups)).any(1)
    return jnp.where(is_chosen[:, :, None], groups, -jnp.inf).reshape(by.shape)
