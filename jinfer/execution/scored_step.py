"""The first half of a step that also gives the log probabilities of a prompt's tokens. Pure functions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from jinfer.batching.batch import layout_of, unpack
from jinfer.batching.buckets import StepShape
from jinfer.config import EngineLimits
from jinfer.execution.device_state import DeviceState
from jinfer.execution.mixed_step import mixed_tokens
from jinfer.execution.step import NextTokens
from jinfer.models.attention import TokenBatch
from jinfer.models.model import Model
from jinfer.sampling.sampler import logprobs_of
from jinfer.weights.params import Params

NO_TARGET = -1  # of a token after which nobody wants log probabilities
TOKENS_AT_A_TIME = 128  # whose logits exist at a time: 78 MB with a vocabulary of 152,000


class PromptScores(NamedTuple):
    """The log probability of each token's target, which comes after it, and the most likely tokens there.
    Zeros where there is no target."""

    logprobs: Float32[Array, " tokens"]
    top_token_ids: Int32[Array, "tokens top"]
    top_logprobs: Float32[Array, "tokens top"]


class ReadTokens(NamedTuple):
    """The tokens of a mixed batch, and the rows that get a next one, as `mixed_tokens` finds them."""

    tokens: TokenBatch
    row_ids: Int32[Array, " rows"]
    sampling: Int32[Array, "rows packed"]


def scored_forward(
    model: Model,
    shape: StepShape,
    limits: EngineLimits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
    next_tokens: NextTokens,
    targets: Int32[Array, " tokens"],
) -> tuple[DeviceState, NextTokens, PromptScores]:
    """The first half, as `forward_into`, of a mixed batch, with the last layer computed for all tokens.
    `targets` are the tokens that come next in prompts; NO_TARGET where nobody asks."""
    state, hidden, read = hidden_forward(model, shape, limits, params, state, packed)
    logits = model.logits(params, hidden[read.tokens.logits_indices])
    wanted = NextTokens(logits, read.row_ids, read.tokens.lengths, read.sampling)
    return state, next_tokens.with_first(wanted), _scores(model, params, hidden, targets)


def hidden_forward(
    model: Model,
    shape: StepShape,
    limits: EngineLimits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
) -> tuple[DeviceState, Float[Array, "tokens features"], ReadTokens]:
    """Keys and values into the cache, and the last hidden states of all tokens of a mixed batch."""
    batch = unpack(layout_of(shape, limits), packed)
    rows, tokens, row_ids, sampling = mixed_tokens(model, limits=limits, rows=state.rows, batch=batch)
    hidden, kv_cache = model.forward(params, state.kv_cache, tokens._replace(logits_indices=None))
    rows = rows.with_lengths(batch["row_ids"], tokens.lengths)
    return DeviceState(kv_cache, rows), hidden, ReadTokens(tokens, row_ids, sampling)


def _scores(
    model: Model,
    params: Params,
    hidden: Float[Array, "tokens features"],
    targets: Int32[Array, " tokens"],
) -> PromptScores:
    """Scores a piece of the tokens after the other, so that their logits are never there all together."""
    num_tokens = targets.shape[0]
    size = min(TOKENS_AT_A_TIME, num_tokens)
    num_pieces = -(-num_tokens // size)
    padding = num_pieces * size - num_tokens
    pieces = (
        jnp.pad(hidden, ((0, padding), (0, 0))).reshape(num_pieces, size, -1),
        jnp.pad(targets, (0, padding), constant_values=NO_TARGET).reshape(num_pieces, size),
    )

    def of_piece(piece: tuple[Array, Array]) -> PromptScores:
        hidden, targets = piece
        logits, token_ids = model.logits(params, hidden), jnp.maximum(targets, 0)
        return PromptScores(*logprobs_of(logits, token_ids, targets != NO_TARGET, model.implementation))

    scores = jax.lax.map(of_piece, pieces)
    return jax.tree.map(lambda x: x.reshape(num_pieces * size, *x.shape[2:])[:num_tokens], scores)
