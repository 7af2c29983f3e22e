"""Tokens and log probabilities of rows with rules, by both implementations of the sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.batching.sampling_state import PROCESSED_LOGPROBS, RAW_LOGPROBS, SamplingRows
from jinfer.sampling.processed_logits import LogitsState, RowFlags, abstract_logits_state, processed
from jinfer.sampling.processed_sampler import sample_and_report, sample_processed
from jinfer.sampling.sampler import NOT_FINITE, sample

ROWS, VOCAB = 6, 50
implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def random_state(rng: np.random.Generator) -> LogitsState:
    """Counts, penalties, biases and masks of all rows, none of them neutral."""
    abstract = abstract_logits_state(ROWS - 1, VOCAB)
    words = abstract.allowed_masks.shape
    return LogitsState(
        output_counts=jnp.asarray(rng.integers(0, 3, (ROWS, VOCAB)), jnp.int16),
        is_in_prompt=jnp.asarray(rng.random((ROWS, VOCAB)) < 0.2),
        penalties=jnp.asarray(rng.uniform(0.5, 1.5, (ROWS, 3)), jnp.float32),
        bias_ids=jnp.asarray(rng.integers(0, VOCAB, abstract.bias_ids.shape), jnp.int32),
        biases=jnp.asarray(rng.normal(size=abstract.biases.shape) / 10, jnp.float32),
        allowed_masks=jnp.asarray(rng.integers(1, 2**32, words), jnp.uint32),
        step_masks=jnp.asarray(rng.integers(1, 2**32, words) | 2**20, jnp.uint32),
    )


def rows(wants_logprobs: int, temperature: float = 1.0) -> SamplingRows:
    return SamplingRows(
        temperature=jnp.full(ROWS, temperature),
        top_p=jnp.full(ROWS, 0.9),
        min_p=jnp.zeros(ROWS),
        top_k=jnp.zeros(ROWS, jnp.int32),
        seed=jnp.arange(2 * ROWS, dtype=jnp.uint32).reshape(ROWS, 2),
        min_length=jnp.zeros(ROWS, jnp.int32),
        wants_logprobs=jnp.full(ROWS, wants_logprobs),
        blocked_ids=jnp.full((ROWS, 16), -1),
    )


POSITIONS = jnp.arange(ROWS) + 7
ROW_IDS = jnp.array([3, 0, 5, 1, 4, 2])
HAVE_RULES = np.array([True, False, True, True, False, True])
FLAGS = RowFlags(HAVE_RULES, np.array([True, False, False, True, False, False]))


@implementations
def test_tokens_are_those_of_the_processed_logits_and_are_counted(rng, implementation):
    logits, state = jnp.asarray(rng.normal(0, 3, (ROWS, VOCAB)), jnp.float32), random_state(rng)
    after, result = sample_processed(
        logits, state, ROW_IDS, FLAGS, rows(RAW_LOGPROBS), POSITIONS, implementation
    )
    changed = processed(logits, state, ROW_IDS, FLAGS)
    expected = sample(changed, rows(RAW_LOGPROBS), POSITIONS, "reference")
    np.testing.assert_array_equal(result.token_ids, expected.token_ids)
    added = np.zeros((ROWS, VOCAB), int)
    added[np.asarray(ROW_IDS)[HAVE_RULES], np.asarray(result.token_ids)[HAVE_RULES]] = 1
    np.testing.assert_array_equal(after.output_counts - state.output_counts, added)
    of_model = jax.nn.log_softmax(logits)[jnp.arange(ROWS), result.token_ids]
    np.testing.assert_allclose(result.logprobs, of_model, atol=1e-4)


@implementations
def test_reported_log_probabilities_are_of_what_is_sampled_from(rng, implementation):
    logits, state = jnp.asarray(rng.normal(0, 3, (ROWS, VOCAB)), jnp.float32), random_state(rng)
    arguments = logits, state, ROW_IDS, FLAGS
    _, plain = sample_processed(*arguments, rows(RAW_LOGPROBS), POSITIONS, implementation)
    _, reported = sample_and_report(*arguments, rows(PROCESSED_LOGPROBS), POSITIONS, implementation)
    np.testing.assert_array_equal(reported.token_ids, plain.token_ids)
    kept = np.asarray(reported.top_logprobs) > -1e30
    assert (kept.sum(axis=1) < 20).any(), "a filter excludes some"
    sums = np.where(kept, np.exp(np.asarray(reported.top_logprobs, np.float64)), 0).sum(axis=1)
    np.testing.assert_allclose(sums, 1, atol=1e-4)
    assert (np.asarray(reported.logprobs) > np.log(1e-3)).all(), "the chosen token is among them"


@implementations
@pytest.mark.parametrize("sampler", [sample_processed, sample_and_report])
def test_logits_that_are_not_finite_are_told_behind_masks(rng, sampler, implementation):
    logits, state = rng.normal(size=(ROWS, VOCAB)).astype(np.float32), random_state(rng)
    logits[0, 7], logits[1, 8], logits[3] = np.nan, np.inf, np.nan
    state = state._replace(allowed_masks=jnp.full_like(state.allowed_masks, 2))  # token 1 alone
    _, result = sampler(
        jnp.asarray(logits), state, ROW_IDS, FLAGS, rows(RAW_LOGPROBS), POSITIONS, implementation
    )
    is_bad = np.isin(np.arange(ROWS), [0, 1, 3])
    np.testing.assert_array_equal(np.asarray(result.token_ids) == NOT_FINITE, is_bad)
