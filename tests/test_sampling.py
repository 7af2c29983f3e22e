"""Sampling against sorting in NumPy; and a token depends on its logits, parameters, seed and position alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.batching.sampling_words import NO_TOKEN, SamplingRows
from jinfer.sampling import StepResult, _filter, sample
from jinfer.sampling_params import MAX_LOGPROBS

ROWS, VOCAB = 4, 24
ROUNDING = 1e-5  # of a sum of float32 probabilities, with room
UNLIKELY = (
    1e-6  # a test of a distribution fails with this probability if all is right, once and for all: seeds are fixed
)

compiled_sample = jax.jit(sample)
compiled_filter = jax.jit(_filter)
modest = settings(max_examples=150, deadline=None, print_blob=True)


def rows_of(count: int = 1, *, blocked_ids=(), seed=0, **changes) -> SamplingRows:
    """Sampling parameters of `count` rows; each is a number for all, or one for each row."""
    seeds = np.broadcast_to(np.array(seed, np.uint64), (count,))
    fields = {
        "temperature": 0.0,
        "top_p": 1.0,
        "min_p": 0.0,
        "top_k": 0,
        "min_length": 0,
        "wants_logprobs": 0,
        **changes,
    }
    dtypes = {name: np.float32 if name in ("temperature", "top_p", "min_p") else np.int32 for name in fields}
    spread = {name: jnp.asarray(np.broadcast_to(np.array(x, dtypes[name]), (count,))) for name, x in fields.items()}
    blocked = np.full((count, 4), NO_TOKEN, np.int32)
    blocked[:, : len(blocked_ids)] = blocked_ids
    words = np.stack([seeds & 0xFFFFFFFF, seeds >> 32], axis=1).astype(np.uint32)
    return SamplingRows(**spread, seed=jnp.asarray(words), blocked_ids=jnp.asarray(blocked))


def run(logits, rows: SamplingRows, positions=None) -> StepResult:
    logits = jnp.asarray(np.atleast_2d(logits), jnp.float32)
    positions = np.zeros(logits.shape[0], np.int32) if positions is None else np.asarray(positions, np.int32)
    return jax.tree.map(np.asarray, compiled_sample(logits, rows, jnp.asarray(positions)))


def some_logits(seed: int = 0, shape=(ROWS, VOCAB)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


# --- greedy and temperature


def test_temperature_zero_takes_the_most_likely():
    logits = some_logits()
    result = run(logits, rows_of(ROWS, seed=np.arange(ROWS)))
    np.testing.assert_array_equal(result.token_ids, logits.argmax(-1))


def test_greedy_and_random_rows_share_a_batch():
    logits, seeds = some_logits(), np.arange(ROWS)
    mixed = run(logits, rows_of(ROWS, temperature=[0, 1, 0, 1], seed=seeds)).token_ids
    drawn = run(logits, rows_of(ROWS, temperature=1.0, seed=seeds)).token_ids
    np.testing.assert_array_equal(mixed, np.where([False, True, False, True], drawn, logits.argmax(-1)))


@pytest.mark.parametrize("temperature", [1e-2, 1e-6, 1e-20, 1e-30, 1e-37, 3e-38])
@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_a_temperature_near_zero_is_nearly_greedy(temperature, filters):
    """However small: nothing overflows. The two largest logits are 0.5 apart, which divided by 0.01 is e^50 to 1."""
    logits = np.sort(10 * some_logits(), axis=-1)
    logits[:, -1] = logits[:, -2] + 0.5
    seeds = np.arange(ROWS)
    result = run(logits, rows_of(ROWS, temperature=temperature, seed=seeds, **filters), positions=range(ROWS))
    np.testing.assert_array_equal(result.token_ids, np.full(ROWS, VOCAB - 1))


# --- the filters


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def kept_by_sorting(logits: np.ndarray, top_k: int, top_p: float, min_p: float, tie: float = 0) -> np.ndarray:
    """Which tokens pass every filter, in float64. Probabilities that differ by a share of `tie` count as equal."""
    logits = logits.astype(np.float64)
    descending = np.sort(logits)[::-1]
    k = min(top_k, len(logits)) if top_k > 0 else len(logits)
    kept = logits >= descending[k - 1]
    probabilities = softmax(np.where(kept, logits, -np.inf))
    if top_p < 1:
        ordered = np.sort(probabilities)[::-1]
        reaches = np.flatnonzero(np.cumsum(ordered) >= top_p)
        least = ordered[reaches[0]] if reaches.size else 0
        kept &= probabilities >= least * (1 - tie)
    return kept & (probabilities >= min_p * probabilities.max())


def filtered(logits: np.ndarray, **rows) -> np.ndarray:
    """What `_filter` keeps of one row, which must be unchanged."""
    batch = np.stack([logits, *some_logits(shape=(ROWS - 1, VOCAB))]).astype(np.float32)
    fields = {name: [value, 3, 1, 1] if name == "top_k" else [value, 0.5, 0.9, 1.0] for name, value in rows.items()}
    after = np.asarray(compiled_filter(jnp.asarray(batch), rows_of(ROWS, temperature=1.0, **fields)))[0]
    kept = after > -np.inf
    np.testing.assert_array_equal(after[kept], batch[0][kept])
    return kept


coarse = st.integers(-12, 12).map(lambda quarters: quarters / 4)  # so that some are equal
fine = st.floats(-20, 20, width=32, allow_subnormal=False)  # which a CPU may take for zero
rows_of_logits = st.lists(coarse, min_size=VOCAB, max_size=VOCAB) | st.lists(fine, min_size=VOCAB, max_size=VOCAB)
shares = st.floats(2**-10, 1, width=32) | st.sampled_from([0.25, 0.5, 0.75, 1.0])


@modest
@given(logits=rows_of_logits, top_k=st.integers(-1, VOCAB + 3))
def test_top_k_keeps_the_k_largest_and_their_ties(logits, top_k):
    logits = np.array(logits, np.float32)
    kept = filtered(logits, top_k=top_k)
    np.testing.assert_array_equal(kept, kept_by_sorting(logits, top_k, 1.0, 0.0))
    assert kept.sum() >= (min(top_k, VOCAB) if top_k > 0 else VOCAB)


@modest
@given(logits=rows_of_logits, top_p=shares, top_k=st.integers(0, VOCAB), min_p=st.just(0.0) | shares)
def test_filters_keep_what_sorting_says(logits, top_p, top_k, min_p):
    """Between what a little less and a little more would keep: a sum may round to either side of its bound."""
    logits = np.array(logits, np.float32)
    kept = filtered(logits, top_p=top_p, top_k=top_k, min_p=min_p)
    least = kept_by_sorting(logits, top_k, top_p - ROUNDING, min_p * (1 + ROUNDING)) if min_p < 1 else kept & False
    most = kept_by_sorting(logits, top_k, min(top_p + ROUNDING, 1.0), min_p * (1 - ROUNDING), tie=ROUNDING)
    assert (least <= kept).all()
    assert (kept <= most).all()
    assert kept[logits.argmax()], "the most likely token passes every filter"


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = np.full(VOCAB, -np.inf, np.float32)
    logits[[3, 7, 11, 20]] = np.log([0.4, 0.3, 0.2, 0.1])
    for top_p, count in ((0.1, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4)):
        assert np.flatnonzero(filtered(logits, top_p=top_p)).tolist() == [3, 7, 11, 20][:count], top_p


def test_min_p_is_relative_to_the_most_likely():
    logits = np.full(VOCAB, -np.inf, np.float32)
    logits[[3, 7, 11]] = np.log([0.5, 0.3, 0.2])
    assert np.flatnonzero(filtered(logits, min_p=0.59)).tolist() == [3, 7]
    assert np.flatnonzero(filtered(logits, min_p=0.61)).tolist() == [3]
    assert np.flatnonzero(filtered(logits, min_p=1.0)).tolist() == [3]


def test_top_p_is_of_what_top_k_left():
    """0.4 and 0.3 are 0.57 and 0.43 of the two, so that the first alone reaches 0.5."""
    logits = np.full(VOCAB, -np.inf, np.float32)
    logits[[3, 7, 11, 20]] = np.log([0.4, 0.3, 0.2, 0.1])
    assert np.flatnonzero(filtered(logits, top_p=0.5)).tolist() == [3, 7]
    assert np.flatnonzero(filtered(logits, top_p=0.5, top_k=2)).tolist() == [3]


def test_filters_see_the_distribution_at_the_temperature():
    """0.64 and 0.36 at temperature 1 are 0.76 and 0.24 at 1/2, and 0.57 and 0.43 at 2."""
    logits = np.full((1, VOCAB), -np.inf, np.float32)
    logits[0, [3, 7]] = np.log([0.64, 0.36])
    for temperature, expected in ((0.5, {3}), (1.0, {3, 7}), (2.0, {3, 7})):
        rows = rows_of(200, temperature=temperature, top_p=0.7, seed=np.arange(200))
        assert set(run(np.repeat(logits, 200, 0), rows).token_ids.tolist()) == expected


@modest
@given(logits=rows_of_logits, seed=st.integers(0, 2**64 - 1), temperature=st.floats(0.125, 2, width=32), top_p=shares)
def test_only_what_is_kept_is_drawn(logits, seed, temperature, top_p):
    logits = np.array(logits, np.float32)
    kept = kept_by_sorting(logits / np.float32(temperature), 5, min(top_p + ROUNDING, 1.0), 0.0, tie=ROUNDING)
    rows = rows_of(ROWS, temperature=temperature, top_p=top_p, top_k=5, seed=seed)
    token_ids = run(np.tile(logits, (ROWS, 1)), rows, positions=range(ROWS)).token_ids
    assert kept[token_ids].all()


# --- random numbers


@modest
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**31 - 1), row=st.integers(0, ROWS - 1))
def test_a_seed_and_a_position_give_a_token_whatever_the_row_and_its_neighbours(seed, position, row):
    logits = some_logits()
    alone = run(logits[0], rows_of(1, temperature=1.0, top_p=0.9, seed=seed), [position]).token_ids[0]
    batch, seeds, positions = some_logits(1), np.arange(ROWS, dtype=np.uint64), np.arange(ROWS)
    batch[row], seeds[row], positions[row] = logits[0], seed, position
    top_p = [0.9 if i == row else 1.0 for i in range(ROWS)]
    temperature = [1.0 if i == row else 0.5 * i for i in range(ROWS)]
    rows = rows_of(
        ROWS, temperature=temperature, top_p=top_p, top_k=[0 if i == row else 2 for i in range(ROWS)], seed=seeds
    )
    assert run(batch, rows, positions).token_ids[row] == alone


def draw_uniform(seeds, positions, vocab: int = 1000) -> np.ndarray:
    count = np.broadcast(seeds, positions).size
    rows = rows_of(count, temperature=1.0, seed=seeds)
    return run(np.zeros((count, vocab)), rows, np.broadcast_to(positions, (count,))).token_ids


def test_positions_have_numbers_of_their_own():
    assert len(set(draw_uniform(5, np.arange(100)).tolist())) > 80  # 95 are expected of 100 in 1000


@pytest.mark.parametrize("first", [0, 2**32 - 50, 2**64 - 100])
def test_seeds_have_numbers_of_their_own_in_all_their_bits(first):
    assert len(set(draw_uniform(np.uint64(first) + np.arange(100, dtype=np.uint64), 7).tolist())) > 80
    assert draw_uniform(1, 7) != draw_uniform(1 + 2**32, 7)


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, 8),
        ({"temperature": 0.7}, 8),
        ({"temperature": 1.5, "top_k": 3}, 3),
        ({"min_p": 0.2}, 5),
        ({"top_p": 0.8}, 4),
    ],
)
@pytest.mark.parametrize("over", ["positions", "seeds"])
def test_tokens_are_drawn_with_their_probabilities(params, kept, over):
    """Chi-square over 20,000 draws, which sees a probability that is wrong by a few hundredths of itself."""
    count, logits = 20_000, np.log(np.array([0.3, 0.2, 0.16, 0.14, 0.1, 0.05, 0.03, 0.02], np.float32))
    numbers = np.arange(count)
    rows = rows_of(count, **{"temperature": 1.0, **params, "seed": numbers if over == "seeds" else 11})
    positions = numbers if over == "positions" else np.full(count, 3)
    observed = np.bincount(run(np.tile(logits, (count, 1)), rows, positions).token_ids, minlength=8)
    assert observed[kept:].sum() == 0
    probabilities = softmax((logits / params.get("temperature", 1.0)).astype(np.float64)[:kept])
    assert scipy.stats.chisquare(observed[:kept], count * probabilities).pvalue > UNLIKELY


@pytest.mark.parametrize("over", ["positions", "seeds"])
def test_neighbouring_draws_are_independent(over):
    numbers = np.arange(20_001)
    tokens = draw_uniform(3, numbers, vocab=5) if over == "positions" else draw_uniform(numbers, 3, vocab=5)
    pairs = np.bincount(5 * tokens[:-1] + tokens[1:], minlength=25)
    assert scipy.stats.chisquare(pairs).pvalue > UNLIKELY


# --- min_tokens, faults, log probabilities


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_blocked_ids_wait_for_min_length(temperature):
    logits = np.zeros((ROWS, VOCAB), np.float32)
    logits[:, [2, 5]] = [50, 40]
    logits[:, 9] = 30
    rows = rows_of(ROWS, temperature=temperature, min_length=[3, 4, 5, 0], blocked_ids=[2, 5])
    assert run(logits, rows, [4] * ROWS).token_ids.tolist() == [2, 2, 9, 2]


def test_ids_are_blocked_before_the_filters():
    """The one token that top_k would keep is blocked, so that it keeps the next."""
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, [2, 9]] = [50, 20]
    rows = rows_of(1, temperature=1.0, top_k=1, min_length=1, blocked_ids=[2])
    assert run(logits, rows).token_ids.tolist() == [9]


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_is_flagged_and_alone(fault, temperature):
    logits = some_logits()
    rows = rows_of(
        ROWS, temperature=temperature, top_p=0.9, top_k=7, min_p=0.01, seed=np.arange(ROWS), wants_logprobs=1
    )
    expected = run(logits, rows)
    logits[2, 3] = fault
    result = run(logits, rows)
    assert result.is_finite.tolist() == [True, True, False, True]
    for name, field in result._asdict().items():
        np.testing.assert_array_equal(field[[0, 1, 3]], getattr(expected, name)[[0, 1, 3]], err_msg=name)
    assert 0 <= result.token_ids[2] < VOCAB


def test_log_probabilities_are_the_models_own():
    """Of the unblocked distribution at temperature 1, whatever was done to draw from it."""
    logits = some_logits()
    favourite = int(logits[0].argmax())
    rows = rows_of(
        ROWS, temperature=0.5, top_k=2, wants_logprobs=[1, 0, 0, 0], min_length=1, blocked_ids=[favourite], seed=1
    )
    result = run(logits, rows)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    order = np.argsort(-logits, axis=-1)[:, :MAX_LOGPROBS]
    np.testing.assert_array_equal(result.top_token_ids, order)
    np.testing.assert_allclose(result.top_logprobs, np.take_along_axis(expected, order, -1), rtol=0, atol=1e-5)
    chosen = expected[np.arange(ROWS), result.token_ids]
    np.testing.assert_allclose(result.logprobs, chosen, rtol=0, atol=1e-5)
    assert result.token_ids[0] != favourite
    assert result.top_token_ids[0, 0] == favourite


def test_log_probabilities_are_zeros_when_nobody_wants_them():
    result = run(some_logits(), rows_of(ROWS))
    assert result.top_token_ids.shape == result.top_logprobs.shape == (ROWS, MAX_LOGPROBS)
    assert not result.logprobs.any()
    assert not result.top_token_ids.any()
    assert not result.top_logprobs.any()


def test_a_small_vocabulary_has_fewer_log_probabilities():
    result = run(some_logits(shape=(ROWS, 5)), rows_of(ROWS, wants_logprobs=1))
    assert result.top_token_ids.shape == (ROWS, 5)
    np.testing.assert_allclose(np.exp(result.top_logprobs).sum(-1), 1, rtol=1e-5)
