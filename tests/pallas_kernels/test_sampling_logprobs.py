"""Log probabilities of both implementations of sampling."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.sampling import top_logprobs, triton
from tests.pallas_kernels.sampling_cases import (
    ROWS,
    TOP_BLOCKS,
    VOCAB,
    implementations,
    interpreted,
    random_logits,
)


def check_logprobs(found, logits, token_ids, wanted, count):
    logprobs, top_ids, top = map(np.asarray, found)
    wide = logits.astype(np.float64)
    expected = wide - wide.max(-1, keepdims=True)
    expected -= np.log(np.exp(expected).sum(-1, keepdims=True))
    order = np.argsort(-wide, axis=-1, kind="stable")[:, :count]
    np.testing.assert_array_equal(top_ids, np.where(wanted[:, None], order, 0))
    of_top = np.where(wanted[:, None], np.take_along_axis(expected, order, -1), 0)
    np.testing.assert_allclose(top, of_top, rtol=1e-5, atol=1e-5)
    of_token = np.where(wanted, expected[np.arange(len(logits)), token_ids], 0)
    np.testing.assert_allclose(logprobs, of_token, rtol=1e-5, atol=1e-5)


@implementations
@pytest.mark.parametrize("count", [1, 20])
def test_log_probabilities_are_the_largest_in_order(rng, implementation, count):
    logits, token_ids, wanted = (
        random_logits(rng),
        rng.integers(0, VOCAB, ROWS).astype(np.int32),
        rng.random(ROWS) < 0.6,
    )
    arrays = map(jnp.asarray, (logits, token_ids, wanted))
    check_logprobs(
        top_logprobs(*arrays, count=count, implementation=implementation), logits, token_ids, wanted, count
    )


@pytest.mark.parametrize("blocks", TOP_BLOCKS)
def test_blocks_do_not_change_log_probabilities(rng, blocks):
    """With many ties, and rows of nothing else."""
    logits, token_ids, wanted = (
        random_logits(rng),
        rng.integers(0, VOCAB, ROWS).astype(np.int32),
        np.ones(ROWS, bool),
    )
    logits[0], logits[1] = 3, np.round(logits[1] / 8)
    wanted[5] = False
    arrays = map(jnp.asarray, (logits, token_ids, wanted))
    check_logprobs(
        triton.top_logprobs(*arrays, 20, interpret=interpreted(), blocks=blocks),
        logits,
        token_ids,
        wanted,
        20,
    )


@pytest.mark.parametrize("blocks", TOP_BLOCKS)
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_log_probabilities_of_a_row_that_is_not_finite_harm_no_other(rng, blocks, fault):
    logits, token_ids, wanted = (
        random_logits(rng),
        rng.integers(0, VOCAB, ROWS).astype(np.int32),
        np.ones(ROWS, bool),
    )
    logits[2, 150], logits[7] = fault, fault
    arrays = map(jnp.asarray, (logits, token_ids, wanted))
    found = [np.asarray(x) for x in triton.top_logprobs(*arrays, 20, interpret=interpreted(), blocks=blocks)]
    others = ~np.isin(np.arange(ROWS), [2, 7])
    check_logprobs([x[others] for x in found], logits[others], token_ids[others], wanted[others], 20)
    assert ((found[1] >= 0) & (found[1] < VOCAB)).all()


@pytest.mark.parametrize("count", [0, VOCAB + 1])
def test_as_many_log_probabilities_as_there_are_tokens(rng, count):
    zeros = jnp.zeros(ROWS, jnp.int32)
    with pytest.raises(ValueError, match=f"count={count} must be from 1 to the {VOCAB} tokens"):
        top_logprobs(jnp.asarray(random_logits(rng)), zeros, zeros > 0, count=count)
