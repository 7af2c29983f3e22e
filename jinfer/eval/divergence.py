"""Two models' distributions of the next token beside each other, from their hidden states."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from jinfer.models.model import Model
from jinfer.models.params import EMBEDDING, HEAD
from jinfer.placement import default_placement
from jinfer.weights.params import Params

TOKENS_AT_A_TIME = 128  # whose logits exist at a time: 156 MB with a vocabulary of 152,000, of two models
SMALL_DIFFERENCE = 1.0  # of two log probabilities


@dataclass(frozen=True, eq=False)
class OutputHead:
    """The part of a model that makes logits of hidden states. `params` are arrays of the host."""

    model: Model
    params: Params

    @classmethod
    def of(cls, model: Model, params: Params) -> "OutputHead":
        """Copies what it needs from the device."""
        embedding = (HEAD if "head" in params else EMBEDDING).split("/")[0]
        return cls(model, jax.device_get({name: params[name] for name in (embedding, "final_norm")}))


class Comparison(NamedTuple):
    """Figures for each scored token, of model A and model B: KL(A || B) in nats, the most likely tokens, and
    the negative log likelihoods of the token that the text has."""

    kl: Any
    top_a: Any
    top_b: Any
    nll_a: Any
    nll_b: Any

    @property
    def is_top_equal(self) -> np.ndarray:
        return self.top_a == self.top_b


def compare_hidden(
    heads: Sequence[OutputHead],
    hidden: Sequence[np.ndarray],
    targets: np.ndarray,
    bar: Any,
) -> Comparison:
    """The figures of all tokens, whose `targets` the text has, from the [tokens, features] of both models."""
    function = jax.jit(functools.partial(compare_piece, heads[0].model, heads[1].model))
    params = [jax.tree.map(default_placement().put, head.params) for head in heads]
    pieces = []
    for begin in range(0, len(targets), TOKENS_AT_A_TIME):
        piece = slice(begin, begin + TOKENS_AT_A_TIME)
        arrays = [_padded(np.asarray(array[piece])) for array in (*hidden, targets)]
        found = jax.device_get(function(*params, *arrays))
        size = len(targets[piece])
        pieces.append([each[:size] for each in found])
        bar.update(size)
    return Comparison(*map(np.concatenate, zip(*pieces, strict=True)))


def compare_piece(
    model_a: Model,
    model_b: Model,
    params_a: Params,
    params_b: Params,
    hidden_a: Float[Array, "tokens features"],
    hidden_b: Float[Array, "tokens other_features"],
    targets: Int32[Array, " tokens"],
) -> Comparison:
    """The figures of a few tokens. All logits of both models exist at once, in float32."""
    logprobs_a = _logprobs(model_a, params_a, hidden_a)
    logprobs_b = _logprobs(model_b, params_b, hidden_b)
    index = targets[:, None]
    return Comparison(
        kl=kl_divergence(logprobs_a, logprobs_b),
        top_a=jnp.argmax(logprobs_a, axis=-1),
        top_b=jnp.argmax(logprobs_b, axis=-1),
        nll_a=-jnp.take_along_axis(logprobs_a, index, axis=-1)[:, 0],
        nll_b=-jnp.take_along_axis(logprobs_b, index, axis=-1)[:, 0],
    )


def kl_divergence(
    logprobs_a: Float32[Array, "tokens vocab"], logprobs_b: Float32[Array, "tokens vocab"]
) -> Float32[Array, " tokens"]:
    """KL(A || B) in nats: the sum of p_a log(p_a / p_b) over the vocabulary.

    It is summed as p_a d - p_a + p_b, d = log(p_a / p_b), which is the same, for both probabilities sum up
    to 1. No term is negative then, and an error of d by the rounding of a log-sum-exp, common to all terms,
    cancels in the first order. So float32 tells two models apart that are nearly the same.
    """
    difference = logprobs_a - logprobs_b
    p_a, p_b = jnp.exp(logprobs_a), jnp.exp(logprobs_b)
    is_small = jnp.abs(difference) < SMALL_DIFFERENCE
    small = jnp.where(is_small, difference, 0)
    terms = jnp.where(is_small, p_a * (small + jnp.expm1(-small)), p_a * difference - p_a + p_b)
    return jnp.sum(jnp.maximum(terms, 0), axis=-1)


def _logprobs(model: Model, params: Params, hidden: Array) -> Array:
    """Log probabilities from the parameters of a head. Those of layers are zeros that nothing reads, and that
    no program has."""
    layers = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), dict(model.abstract_params))
    return jax.nn.log_softmax(model.logits({**layers, **params}, hidden), axis=-1)


def _padded(array: np.ndarray) -> np.ndarray:
    """The first rows of a piece, and zeros."""
    padding = [(0, TOKENS_AT_A_TIME - len(array))] + [(0, 0)] * (array.ndim - 1)
    return np.pad(array, padding)
