"""What the filters of sampling keep, against sorting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pallas_kernels.sampling import reference
from pallas_kernels.sampling.triton import search
from tests.pallas_kernels.sampling_cases import ROUNDING, kept_by_sorting, modest


@functools.partial(jax.jit, static_argnames="stops_early")
def kth_of_keys(keys, k, stops_early):
    def measure(tried):
        return [jnp.where(keys >= t, 1.0, 0.0).sum() for t in tried]

    least = (lambda t: jnp.float32(1)) if stops_early else None
    return search.largest_threshold(measure, k, keys.min(), keys.max(), least=least)


@modest
@given(
    keys=st.sampled_from([0, 2**30, 2**31 - 5, 2**32 - 9]).flatmap(
        lambda low: st.lists(
            st.integers(low, 2**32 - 1) | st.integers(low, low + 8), min_size=12, max_size=12
        )
    ),
    k=st.integers(1, 14),
    stops_early=st.booleans(),
)
def test_a_threshold_is_that_of_sorting(keys, k, stops_early):
    """Or, for a search that stops early, another one that keeps the same."""
    found = int(kth_of_keys(np.array(keys, np.uint32), np.float32(k), stops_early))
    expected = sorted(keys, reverse=True)[k - 1] if k <= len(keys) else min(keys)
    assert {key for key in keys if key >= found} == {key for key in keys if key >= expected}
    assert stops_early or found == expected


@modest
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=12, max_size=12))
def test_bits_are_in_the_order_of_the_numbers(numbers):
    x = np.array(numbers, np.float32)
    ordered = search.ordered_bits(jnp.asarray(x))
    np.testing.assert_array_equal(search.number_of_ordered(ordered), x)
    np.testing.assert_array_equal(x[np.argsort(np.asarray(ordered))], np.sort(x))


coarse = st.integers(-12, 12).map(lambda quarters: quarters / 4)  # so that some are equal
fine = st.floats(-20, 20, width=32, allow_subnormal=False)  # which a CPU may take for zero
rows_of_logits = st.lists(coarse, min_size=24, max_size=24) | st.lists(fine, min_size=24, max_size=24)
shares = st.floats(2**-10, 1, width=32) | st.sampled_from([0.25, 0.5, 0.75, 1.0])
kept_by = jax.jit(reference.kept_by)


def kept(logits, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    """Which logits of one row the reference keeps, which must be unchanged."""
    neighbour = np.linspace(-3, 3, len(logits))
    batch = np.stack([logits, neighbour]).astype(np.float32)
    vectors = (
        np.array([top_k, 3], np.int32),
        np.array([top_p, 0.5], np.float32),
        np.array([min_p, 0.2], np.float32),
    )
    after = np.asarray(kept_by(batch, *vectors))[0]
    np.testing.assert_array_equal(after[after > -np.inf], batch[0][after > -np.inf])
    return after > -np.inf


@modest
@given(logits=rows_of_logits, top_k=st.integers(-1, 27))
def test_top_k_keeps_the_k_largest_and_their_ties(logits, top_k):
    logits = np.array(logits, np.float32)
    np.testing.assert_array_equal(kept(logits, top_k=top_k), kept_by_sorting(logits, top_k, 1.0, 0.0))


@modest
@given(logits=rows_of_logits, top_p=shares, top_k=st.integers(0, 24), min_p=st.just(0.0) | shares)
def test_filters_keep_what_sorting_says(logits, top_p, top_k, min_p):
    """Between what a little less and a little more would keep: a sum may round to either side of its
    bound."""
    logits = np.array(logits, np.float32)
    found = kept(logits, top_p=top_p, top_k=top_k, min_p=min_p)
    least = (
        kept_by_sorting(logits, top_k, top_p - ROUNDING, min_p * (1 + ROUNDING))
        if min_p < 1
        else found & False
    )
    most = kept_by_sorting(logits, top_k, min(top_p + ROUNDING, 1.0), min_p * (1 - ROUNDING), tie=ROUNDING)
    assert (least <= found).all()
    assert (found <= most).all()
    assert found[logits.argmax()], "the most likely token passes every filter"


def logits_of(probabilities: dict[int, float]) -> np.ndarray:
    logits = np.full(24, -np.inf, np.float32)
    logits[list(probabilities)] = np.log(list(probabilities.values()))
    return logits


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = logits_of({3: 0.4, 7: 0.3, 11: 0.2, 20: 0.1})
    for top_p, count in ((0.1, 1), (0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4)):
        assert np.flatnonzero(kept(logits, top_p=top_p)).tolist() == [3, 7, 11, 20][:count], top_p


def test_min_p_is_relative_to_the_most_likely():
    logits = logits_of({3: 0.5, 7: 0.3, 11: 0.2})
    assert np.flatnonzero(kept(logits, min_p=0.59)).tolist() == [3, 7]
    assert np.flatnonzero(kept(logits, min_p=0.61)).tolist() == [3]
    assert np.flatnonzero(kept(logits, min_p=1.0)).tolist() == [3]


def test_top_p_is_of_what_top_k_left():
    """0.4 and 0.3 are 0.57 and 0.43 of the two, so that the first alone reaches 0.5."""
    logits = logits_of({3: 0.4, 7: 0.3, 11: 0.2, 20: 0.1})
    assert np.flatnonzero(kept(logits, top_p=0.5)).tolist() == [3, 7]
    assert np.flatnonzero(kept(logits, top_p=0.5, top_k=2)).tolist() == [3]
