"""Tokens of a batch of rows, in both implementations: each depends on its logits, parameters, seed and
position alone.

What the filters keep is tested in tests/pallas_kernels/test_sampling_thresholds.py.
"""

import operator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.batching.sampling_state import NO_BLOCKED_ID, SamplingRows
from jinfer.requests.sampling_params import MAX_LOGPROBS
from jinfer.sampling.sampler import NOT_FINITE, StepResult, sample

ROWS, VOCAB = 4, 24
ROUNDING = 1e-5  # of a sum of float32 probabilities, with room
# A test of a distribution fails with this probability if all is right, once and for all: seeds are fixed.
UNLIKELY = 1e-6

compiled_sample = jax.jit(sample, static_argnums=3)
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
    spread = {
        name: jnp.asarray(np.broadcast_to(np.array(x, dtypes[name]), (count,))) for name, x in fields.items()
    }
    blocked = np.full((count, 4), NO_BLOCKED_ID, np.int32)
    blocked[:, : len(blocked_ids)] = blocked_ids
    words = np.stack([seeds & 0xFFFFFFFF, seeds >> 32], axis=1).astype(np.uint32)
    return SamplingRows(**spread, seed=jnp.asarray(words), blocked_ids=jnp.asarray(blocked))


@dataclass(frozen=True)
class Run:
    """`sample` in one implementation, of which interpret mode is slow: a few rows at a time, and fewer
    draws."""

    implementation: str
    max_rows: int
    num_draws: int

    def __call__(self, logits, rows: SamplingRows, positions=None) -> StepResult:
        logits = jnp.asarray(np.atleast_2d(logits), jnp.float32)
        positions = (
            np.zeros(logits.shape[0], np.int32) if positions is None else np.asarray(positions, np.int32)
        )
        arguments = logits, rows, jnp.asarray(positions)
        parts = [slice(first, first + self.max_rows) for first in range(0, logits.shape[0], self.max_rows)]
        results = [
            compiled_sample(
                *(jax.tree.map(operator.itemgetter(part), x) for x in arguments), self.implementation
            )
            for part in parts
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


@pytest.fixture(
    scope="module",
    params=[Run("xla", 20_001, 20_000), Run("pallas", 200, 2_000)],
    ids=lambda run: run.implementation,
)
def run(request):
    return request.param


def some_logits(seed: int = 0, shape=(ROWS, VOCAB)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


# --- greedy and temperature


def test_temperature_zero_takes_the_most_likely(run):
    logits = some_logits()
    result = run(logits, rows_of(ROWS, seed=np.arange(ROWS)))
    np.testing.assert_array_equal(result.token_ids, logits.argmax(-1))


def test_greedy_and_random_rows_share_a_batch(run):
    logits, seeds = some_logits(), np.arange(ROWS)
    mixed = run(logits, rows_of(ROWS, temperature=[0, 1, 0, 1], seed=seeds)).token_ids
    drawn = run(logits, rows_of(ROWS, temperature=1.0, seed=seeds)).token_ids
    np.testing.assert_array_equal(mixed, np.where([False, True, False, True], drawn, logits.argmax(-1)))


@pytest.mark.parametrize("temperature", [1e-2, 1e-6, 1e-20, 1e-30, 1e-37, 3e-38])
@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_a_temperature_near_zero_is_nearly_greedy(run, temperature, filters):
    """However small: nothing overflows. The two largest logits are 0.5 apart, which divided by 0.01 is e^50
    to 1."""
    logits = np.sort(10 * some_logits(), axis=-1)
    logits[:, -1] = logits[:, -2] + 0.5
    seeds = np.arange(ROWS)
    result = run(logits, rows_of(ROWS, temperature=temperature, seed=seeds, **filters), positions=range(ROWS))
    np.testing.assert_array_equal(result.token_ids, np.full(ROWS, VOCAB - 1))


coarse = st.integers(-12, 12).map(lambda quarters: quarters / 4)  # so that some are equal
fine = st.floats(-20, 20, width=32, allow_subnormal=False)  # which a CPU may take for zero
rows_of_logits = st.lists(coarse, min_size=VOCAB, max_size=VOCAB) | st.lists(
    fine, min_size=VOCAB, max_size=VOCAB
)
shares = st.floats(2**-10, 1, width=32) | st.sampled_from([0.25, 0.5, 0.75, 1.0])


# --- the filters


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def kept_by_sorting(logits: np.ndarray, top_k: int, top_p: float, min_p: float, tie: float = 0) -> np.ndarray:
    """Which tokens pass every filter, in float64. Probabilities that differ by a share of `tie` count as
    equal."""
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


def test_filters_see_the_distribution_at_the_temperature(run):
    """0.64 and 0.36 at temperature 1 are 0.76 and 0.24 at 1/2, and 0.57 and 0.43 at 2."""
    logits = np.full((1, VOCAB), -1e9, np.float32)
    logits[0, [3, 7]] = np.log([0.64, 0.36])
    for temperature, expected in ((0.5, {3}), (1.0, {3, 7}), (2.0, {3, 7})):
        rows = rows_of(200, temperature=temperature, top_p=0.7, seed=np.arange(200))
        assert set(run(np.repeat(logits, 200, 0), rows).token_ids.tolist()) == expected


@modest
@given(
    logits=rows_of_logits,
    seed=st.integers(0, 2**64 - 1),
    temperature=st.floats(0.125, 2, width=32),
    top_p=shares,
)
def test_only_what_is_kept_is_drawn(run, logits, seed, temperature, top_p):
    logits = np.array(logits, np.float32)
    kept = kept_by_sorting(logits / np.float32(temperature), 5, min(top_p + ROUNDING, 1.0), 0.0, tie=ROUNDING)
    rows = rows_of(ROWS, temperature=temperature, top_p=top_p, top_k=5, seed=seed)
    token_ids = run(np.tile(logits, (ROWS, 1)), rows, positions=range(ROWS)).token_ids
    assert kept[token_ids].all()


# --- random numbers


@modest
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**31 - 1), row=st.integers(0, ROWS - 1))
def test_a_seed_and_a_position_give_a_token_whatever_the_row_and_its_neighbours(run, seed, position, row):
    logits = some_logits()
    alone = run(logits[0], rows_of(1, temperature=1.0, top_p=0.9, seed=seed), [position]).token_ids[0]
    batch, seeds, positions = some_logits(1), np.arange(ROWS, dtype=np.uint64), np.arange(ROWS)
    batch[row], seeds[row], positions[row] = logits[0], seed, position
    top_p = [0.9 if i == row else 1.0 for i in range(ROWS)]
    temperature = [1.0 if i == row else 0.5 * i for i in range(ROWS)]
    rows = rows_of(
        ROWS,
        temperature=temperature,
        top_p=top_p,
        top_k=[0 if i == row else 2 for i in range(ROWS)],
        seed=seeds,
    )
    assert run(batch, rows, positions).token_ids[row] == alone


def draw_uniform(run, seeds, positions, vocab: int = 1000) -> np.ndarray:
    count = np.broadcast(seeds, positions).size
    rows = rows_of(count, temperature=1.0, seed=seeds)
    return run(np.zeros((count, vocab)), rows, np.broadcast_to(positions, (count,))).token_ids


def test_positions_have_numbers_of_their_own(run):
    assert len(set(draw_uniform(run, 5, np.arange(100)).tolist())) > 80  # 95 are expected of 100 in 1000


@pytest.mark.parametrize("first", [0, 2**32 - 50, 2**64 - 100])
def test_seeds_have_numbers_of_their_own_in_all_their_bits(run, first):
    assert len(set(draw_uniform(run, np.uint64(first) + np.arange(100, dtype=np.uint64), 7).tolist())) > 80
    low, high = draw_uniform(run, np.resize(np.array([1, 1 + 2**32], np.uint64), 100), 7)[:2]
    assert low != high


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
def test_tokens_are_drawn_with_their_probabilities(run, params, kept, over):
    """Chi-square over 20,000 draws, which sees a probability that is wrong by a few hundredths of itself."""
    count, logits = run.num_draws, np.log(np.array([0.3, 0.2, 0.16, 0.14, 0.1, 0.05, 0.03, 0.02], np.float32))
    numbers = np.arange(count)
    rows = rows_of(count, **{"temperature": 1.0, **params, "seed": numbers if over == "seeds" else 11})
    positions = numbers if over == "positions" else np.full(count, 3)
    observed = np.bincount(run(np.tile(logits, (count, 1)), rows, positions).token_ids, minlength=8)
    assert observed[kept:].sum() == 0
    probabilities = softmax((logits / params.get("temperature", 1.0)).astype(np.float64)[:kept])
    assert scipy.stats.chisquare(observed[:kept], count * probabilities).pvalue > UNLIKELY


@pytest.mark.parametrize("over", ["positions", "seeds"])
def test_neighbouring_draws_are_independent(run, over):
    numbers = np.arange(run.num_draws)
    tokens = (
        draw_uniform(run, 3, numbers, vocab=5)
        if over == "positions"
        else draw_uniform(run, numbers, 3, vocab=5)
    )
    pairs = np.bincount(5 * tokens[:-1] + tokens[1:], minlength=25)
    assert scipy.stats.chisquare(pairs).pvalue > UNLIKELY


# --- min_tokens, faults, log probabilities


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_blocked_ids_wait_for_min_length(run, temperature):
    logits = np.zeros((ROWS, VOCAB), np.float32)
    logits[:, [2, 5]] = [50, 40]
    logits[:, 9] = 30
    rows = rows_of(ROWS, temperature=temperature, min_length=[3, 4, 5, 0], blocked_ids=[2, 5])
    assert run(logits, rows, [4] * ROWS).token_ids.tolist() == [2, 2, 9, 2]


def test_ids_are_blocked_before_the_filters(run):
    """The one token that top_k would keep is blocked, so that it keeps the next."""
    logits = np.zeros((1, VOCAB), np.float32)
    logits[0, [2, 9]] = [50, 20]
    rows = rows_of(1, temperature=1.0, top_k=1, min_length=1, blocked_ids=[2])
    assert run(logits, rows).token_ids.tolist() == [9]


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_is_flagged_and_alone(run, fault, temperature):
    logits = some_logits()
    rows = rows_of(
        ROWS, temperature=temperature, top_p=0.9, top_k=7, min_p=0.01, seed=np.arange(ROWS), wants_logprobs=1
    )
    expected = run(logits, rows)
    logits[2, 3] = fault
    result = run(logits, rows)
    assert result.token_ids[2] == NOT_FINITE
    of_rows = {name: field for name, field in result._asdict().items() if name != "expert_ids"}
    for name, field in of_rows.items():
        np.testing.assert_array_equal(field[[0, 1, 3]], getattr(expected, name)[[0, 1, 3]], err_msg=name)
    assert (result.token_ids[[0, 1, 3]] >= 0).all()


def test_log_probabilities_are_the_models_own(run):
    """Of the unblocked distribution at temperature 1, whatever was done to draw from it; and zeros for
    others."""
    logits, wanted = some_logits(), np.array([1, 1, 0, 1])
    favourite = int(logits[0].argmax())
    rows = rows_of(
        ROWS, temperature=0.5, top_k=2, wants_logprobs=wanted, min_length=1, blocked_ids=[favourite], seed=1
    )
    result = run(logits, rows)
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    order = np.argsort(-logits, axis=-1)[:, :MAX_LOGPROBS]
    np.testing.assert_array_equal(result.top_token_ids, wanted[:, None] * order)
    of_top = wanted[:, None] * np.take_along_axis(expected, order, -1)
    np.testing.assert_allclose(result.top_logprobs, of_top, rtol=0, atol=1e-5)
    chosen = wanted * expected[np.arange(ROWS), result.token_ids]
    np.testing.assert_allclose(result.logprobs, chosen, rtol=0, atol=1e-5)
    assert result.token_ids[0] != favourite
    assert result.top_token_ids[0, 0] == favourite


def test_log_probabilities_are_zeros_when_nobody_wants_them(run):
    result = run(some_logits(), rows_of(ROWS))
    assert result.top_token_ids.shape == result.top_logprobs.shape == (ROWS, MAX_LOGPROBS)
    assert not result.logprobs.any()
    assert not result.top_token_ids.any()
    assert not result.top_logprobs.any()


def test_a_small_vocabulary_has_fewer_log_probabilities(run):
    result = run(some_logits(shape=(ROWS, 5)), rows_of(ROWS, wants_logprobs=1))
    assert result.top_token_ids.shape == (ROWS, 5)
    np.testing.assert_allclose(np.exp(result.top_logprobs).sum(-1), 1, rtol=1e-5)
