"""Processed logits against a closed form in float64, and what the device counts for them."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.batching.logits_rules import joining_row
from jinfer.config import EngineLimits
from jinfer.requests.logits_rules import MAX_LOGIT_BIAS, LogitsRules
from jinfer.requests.new_request import create_request
from jinfer.requests.request import Sequence
from jinfer.requests.sampling_params import SamplingParams
from jinfer.requests.token_masker import TOKENS_PER_WORD, num_mask_words
from jinfer.sampling.processed_logits import (
    EXCLUDED,
    LogitsState,
    RowFlags,
    abstract_logits_state,
    processed,
    with_chosen,
    with_row,
    with_step_masks,
)

VOCAB = 45  # no whole number of words
LIMITS = EngineLimits(page_size=4, num_pages=33, max_num_seqs=3, max_num_batched_tokens=16, max_model_len=24)
NULL_ROW = LIMITS.max_num_seqs


def a_sequence(prompt: list[int], output: list[int], rules: LogitsRules) -> Sequence:
    request = create_request(
        "request", None, prompt, SamplingParams(), eos_token_ids=frozenset(), vocab_size=VOCAB, limits=LIMITS
    )
    request.logits_rules = rules
    (sequence,) = request.sequences
    sequence.token_ids += output
    return sequence


def mask_of(token_ids: set[int]) -> np.ndarray:
    words = np.zeros(num_mask_words(VOCAB), np.uint32)
    for token_id in token_ids:
        words[token_id // TOKENS_PER_WORD] |= np.uint32(1 << token_id % TOKENS_PER_WORD)
    return words


def empty_state() -> LogitsState:
    return jax.tree.map(
        lambda x: jnp.full(x.shape, 1, x.dtype), abstract_logits_state(LIMITS.max_num_seqs, VOCAB)
    )


def closed_form(
    logits: np.ndarray, prompt: list[int], output: list[int], rules: LogitsRules, step_mask: set[int] | None
) -> np.ndarray:
    """The definition, a token at a time, in float64."""
    found = logits.astype(np.float64)
    counts = Counter(output)
    for token_id in range(VOCAB):
        x = found[token_id]
        if token_id in prompt or token_id in output:
            x = x / rules.repetition_penalty if x > 0 else x * rules.repetition_penalty
        x -= rules.frequency_penalty * counts[token_id]
        x -= rules.presence_penalty if counts[token_id] else 0
        x += rules.bias.get(token_id, 0)
        is_allowed = rules.allowed_mask is None or bool(
            rules.allowed_mask[token_id // TOKENS_PER_WORD] >> np.uint32(token_id % TOKENS_PER_WORD) & 1
        )
        found[token_id] = x if is_allowed and (step_mask is None or token_id in step_mask) else EXCLUDED
    return found


ids = st.integers(0, VOCAB - 1)


@st.composite
def rows(draw) -> tuple[list[int], list[int], LogitsRules, set[int] | None]:
    allowed = draw(st.none() | st.sets(ids, min_size=1))
    rules = LogitsRules(
        presence_penalty=draw(st.floats(-2, 2)),
        frequency_penalty=draw(st.floats(-2, 2)),
        repetition_penalty=draw(st.floats(0.1, 5)),
        bias=draw(st.dictionaries(ids, st.floats(-100, 100), max_size=5)),
        allowed_mask=None if allowed is None else mask_of(allowed),
    )
    prompt = draw(st.lists(ids, min_size=1, max_size=8))
    return prompt, draw(st.lists(ids, max_size=12)), rules, draw(st.none() | st.sets(ids, min_size=1))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(rows(), min_size=1, max_size=3), seed=st.integers(0, 2**32 - 1))
def test_logits_are_those_of_the_closed_form(rows, seed):
    logits = np.random.default_rng(seed).normal(0, 10, (len(rows) + 1, VOCAB)).astype(np.float32)
    state = empty_state()
    for row, (prompt, output, rules, step_mask) in enumerate(rows):
        state = with_row(state, joining_row(a_sequence(prompt, output, rules), row, LIMITS, VOCAB))
        if step_mask is not None:
            sent = jnp.asarray(mask_of(step_mask)[None])
            masks = with_step_masks(state.step_masks, jnp.array([row]), sent)
            state = state._replace(step_masks=masks)
    flags = RowFlags(
        has_rules=jnp.array([True] * len(rows) + [False]),
        has_step_mask=jnp.array([each[3] is not None for each in rows] + [False]),
    )
    row_ids = jnp.array([*range(len(rows)), NULL_ROW])
    found = np.asarray(processed(jnp.asarray(logits), state, row_ids, flags))
    for row, case in enumerate(rows):
        np.testing.assert_allclose(found[row], closed_form(logits[row], *case), rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found[-1], logits[-1], err_msg="a row without rules")


def test_tokens_that_are_chosen_count_as_if_the_row_joined_with_them():
    prompt, output = [1, 2, 2], [3, 4, 3, 3, 1]
    rules = LogitsRules(presence_penalty=1, frequency_penalty=0.5, repetition_penalty=1.5)
    joined = with_row(empty_state(), joining_row(a_sequence(prompt, output, rules), 1, LIMITS, VOCAB))
    state = with_row(empty_state(), joining_row(a_sequence(prompt, [], rules), 1, LIMITS, VOCAB))
    flags = RowFlags(jnp.array([True, False]), jnp.array([False, False]))
    for token_id in output:
        state = with_chosen(state, jnp.array([1, 2]), jnp.array([token_id, 7]), flags)
    jax.tree.map(np.testing.assert_array_equal, state, joined)


def test_a_token_that_is_none_is_not_counted():
    state = empty_state()
    flags = RowFlags(jnp.array([True]), jnp.array([False]))
    after = with_chosen(state, jnp.array([0]), jnp.array([-1]), flags)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_count_does_not_overflow():
    full = np.iinfo(np.int16).max
    state = empty_state()
    state = state._replace(output_counts=jnp.full_like(state.output_counts, full))
    flags = RowFlags(jnp.array([True]), jnp.array([False]))
    after = with_chosen(state, jnp.array([0]), jnp.array([5]), flags)
    assert int(after.output_counts[0, 5]) == full


@pytest.mark.parametrize(("logit", "penalty"), [(1e30, 1e-20), (-1e30, 1e20)])
def test_a_penalty_makes_no_logit_infinite(logit, penalty):
    rules = LogitsRules(repetition_penalty=penalty)
    state = with_row(empty_state(), joining_row(a_sequence([3], [], rules), 0, LIMITS, VOCAB))
    logits = jnp.zeros((1, VOCAB)).at[0, 3].set(logit)
    flags = RowFlags(jnp.array([True]), jnp.array([False]))
    assert np.isfinite(processed(logits, state, jnp.array([0]), flags)).all()


def test_as_many_biases_as_may_be_are_kept():
    vocab_size = MAX_LOGIT_BIAS + 3
    rules = LogitsRules(bias={token_id: float(token_id) for token_id in range(3, vocab_size)})
    sequence = a_sequence([1], [], rules)
    state = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), abstract_logits_state(LIMITS.max_num_seqs, vocab_size)
    )
    state = with_row(state, joining_row(sequence, 0, LIMITS, vocab_size))
    state = state._replace(penalties=state.penalties.at[0, 0].set(1))
    flags = RowFlags(jnp.array([True]), jnp.array([False]))
    found = processed(jnp.zeros((1, vocab_size)), state, jnp.array([0]), flags)
    np.testing.assert_array_equal(found[0], [0, 0, 0, *range(3, vocab_size)])
