"""Tokens of both implementations of sampling, in every way that the kernels cut a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.sampling import sample, sampled_logits, shapes, top_logprobs, tuning
from pallas_kernels.sampling.draw import MIN_SLICE
from tests.pallas_kernels.sampling_cases import (
    BLOCKS,
    ROUNDING,
    ROWS,
    VOCAB,
    all_right_tokens,
    assert_right,
    call,
    check,
    every_way_to_cut,
    implementations,
    in_blocks,
    kept_by_sorting,
    random_logits,
    random_parameters,
)
from tests.pallas_kernels.some import every_nth


def test_sampled_logits_are_those_of_what_is_kept(rng):
    """Their softmax, row by row, against the definition."""
    logits, parameters = random_logits(rng), random_parameters(rng)
    del parameters["seeds"]
    found = np.asarray(sampled_logits(jnp.asarray(logits), **parameters), np.float64)
    for i, row in enumerate(logits.astype(np.float64)):
        of_row = {name: x[i] for name, x in parameters.items()}
        if of_row["positions"] < of_row["min_lengths"]:
            row[[j for j in of_row["blocked_ids"] if j >= 0]] = -np.inf
        temperature = of_row["temperature"]
        expected = (row - row.max()) / np.float64(temperature or 1)
        is_kept = np.isfinite(found[i])
        if temperature:
            top_k, top_p, min_p = of_row["top_k"], of_row["top_p"], of_row["min_p"]
            surely = kept_by_sorting(expected, top_k, top_p - ROUNDING, min(min_p * (1 + ROUNDING), 1))
            perhaps = kept_by_sorting(
                expected, top_k, min(top_p + ROUNDING, 1.0), min_p * (1 - ROUNDING), tie=ROUNDING
            )
            assert is_kept[surely & np.isfinite(row)].all()
            assert not is_kept[~perhaps].any()
        else:
            np.testing.assert_array_equal(is_kept, np.isfinite(row))
        expected, values = expected[is_kept], found[i, is_kept]
        largest = values.argmax()
        np.testing.assert_allclose(
            values - values[largest], expected - expected[largest], rtol=1e-5, atol=1e-4
        )


@implementations
def test_tokens_are_those_of_the_definition(rng, implementation):
    for _ in range(5):
        logits, parameters = random_logits(rng), random_parameters(rng)
        token_ids, is_finite = call(logits, parameters, implementation=implementation)
        check(token_ids, logits, parameters)
        assert is_finite.all()


@every_way_to_cut
def test_blocks_do_not_change_the_tokens(rng, blocks):
    for _ in range(8):
        logits, parameters = random_logits(rng), random_parameters(rng)
        token_ids, is_finite = in_blocks(logits, parameters, blocks)
        check(token_ids, logits, parameters, blocks)
        assert is_finite.all()


@implementations
def test_tokens_are_drawn_from_the_softmax(rng, implementation):
    """Also where a slice is drawn first: of many draws each token has its share."""
    rows, vocab = (4096 if implementation == "reference" else 64), 2 * MIN_SLICE + 5
    logits = np.full(vocab, -20, np.float32)
    logits[[3, 200, 255, 256, 400, 512, vocab - 1]] = [0.5, 1, 0, 1.5, -1, 0, 2]
    parameters = {name: np.repeat(x[:1], rows, 0) for name, x in random_parameters(rng, 1, vocab).items()}
    parameters |= {
        "temperature": np.full(rows, 0.7, np.float32),
        "positions": np.arange(rows, dtype=np.int32),
    }
    parameters |= {"top_p": np.ones(rows, np.float32), "min_p": np.zeros(rows, np.float32)}
    parameters |= {"top_k": np.zeros(rows, np.int32), "min_lengths": np.zeros(rows, np.int32)}
    token_ids, _ = call(np.tile(logits, (rows, 1)), parameters, implementation=implementation)
    probabilities = np.exp(logits.astype(np.float64) / np.float32(0.7))
    probabilities /= probabilities.sum()
    counts = np.bincount(token_ids, minlength=vocab)
    deviation = np.sqrt(rows * probabilities * (1 - probabilities))
    assert (np.abs(counts - rows * probabilities) <= 5 * deviation + 1).all()


@every_way_to_cut
def test_equal_logits_are_all_kept_or_the_first_is_taken(rng, blocks):
    parameters = random_parameters(rng) | {"temperature": np.repeat([0, 1], ROWS // 2).astype(np.float32)}
    parameters |= {"top_k": np.full(ROWS, 3, np.int32), "min_lengths": np.zeros(ROWS, np.int32)}
    logits = rng.standard_normal((ROWS, VOCAB)).astype(np.float32)
    logits[:, 17:180:5] = 9
    logits[:, 52] = -0.0  # equal to 0
    token_ids, _ = in_blocks(logits, parameters, blocks)
    assert (token_ids[: ROWS // 2] == 17).all()
    check(token_ids, logits, parameters, blocks)
    logits = np.where(np.arange(VOCAB) % 3, -1, np.where(np.arange(VOCAB) % 2, -0.0, 0)).astype(np.float32)
    logits = np.tile(logits, (ROWS, 1))
    check(in_blocks(logits, parameters, blocks)[0], logits, parameters, blocks)


@every_way_to_cut
def test_minus_infinity_is_never_chosen(rng, blocks):
    """Not even where most slices hold nothing else; such a row says that it is not finite."""
    logits, parameters = random_logits(rng), random_parameters(rng)
    parameters["min_lengths"] = np.zeros(ROWS, np.int32)
    logits[:, : VOCAB - 60] = -np.inf
    token_ids, is_finite = in_blocks(logits, parameters, blocks)
    check(token_ids, logits, parameters, blocks)
    assert not is_finite.any()


@implementations
@pytest.mark.parametrize("num_allowed", [1, 3, 60])
def test_the_lowest_finite_logit_is_never_chosen(rng, implementation, num_allowed):
    """As a mask is written that must not make a row look faulty."""
    logits, parameters = random_logits(rng), random_parameters(rng)
    parameters["min_lengths"] = np.zeros(ROWS, np.int32)
    allowed = np.array([rng.permutation(VOCAB) < num_allowed for _ in range(ROWS)])
    masked = np.where(allowed, logits, np.finfo(np.float32).min)
    token_ids, is_finite = call(masked, parameters, implementation=implementation)
    check(token_ids, masked, parameters)
    assert allowed[np.arange(ROWS), token_ids].all()
    assert is_finite.all()


@every_way_to_cut
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_says_so_and_is_alone(rng, blocks, fault):
    logits, parameters = random_logits(rng), random_parameters(rng)
    logits[3, 150], logits[8] = fault, fault
    token_ids, is_finite = in_blocks(logits, parameters, blocks)
    others = ~np.isin(np.arange(ROWS), [3, 8])
    np.testing.assert_array_equal(is_finite, others)
    assert ((token_ids >= 0) & (token_ids < VOCAB)).all()
    check(token_ids[others], logits[others], {name: x[others] for name, x in parameters.items()}, blocks)


def test_a_row_does_not_depend_on_its_neighbours(rng):
    logits, parameters = random_logits(rng), random_parameters(rng)
    token_ids, _ = in_blocks(logits, parameters, BLOCKS[0])
    backwards, _ = in_blocks(logits[::-1], {name: x[::-1] for name, x in parameters.items()}, BLOCKS[0])
    np.testing.assert_array_equal(backwards[::-1], token_ids)


@implementations
def test_no_ids_to_block(rng, implementation):
    logits, parameters = random_logits(rng), random_parameters(rng)
    parameters["blocked_ids"] = np.zeros((ROWS, 0), np.int32)
    check(call(logits, parameters, implementation=implementation)[0], logits, parameters)


def test_a_call_is_its_kernels_alone(rng):
    """A conditional or a loop around them would be read by the host, and would end a CUDA graph."""
    logits, parameters = random_logits(rng), random_parameters(rng)

    def both(logits, parameters):
        token_ids, _ = sample(logits, **parameters, implementation="pallas", interpret=False)
        return top_logprobs(logits, token_ids, token_ids > 0, implementation="pallas", interpret=False)

    assert primitives_of(jax.make_jaxpr(both)(logits, parameters).jaxpr) == [
        "pallas_call",
        "pallas_call",
        "gt",
        "pallas_call",
    ]


def primitives_of(jaxpr) -> list[str]:
    """Those that are run, in order, where jitted functions are what is in them."""
    names = []
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr") if equation.primitive.name == "jit" else None
        names += [equation.primitive.name] if inner is None else primitives_of(inner.jaxpr)
    return names


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", shapes.VOCABULARIES.values())
@pytest.mark.parametrize("rows", shapes.ROWS)
def test_real_sizes(rng, rows, vocab):
    logits, parameters = random_logits(rng, rows, vocab), random_parameters(rng, rows, vocab)
    parameters["temperature"][0] = 1e-40  # which a CPU may take for zero
    right = all_right_tokens(logits, parameters)
    for blocks in (None, *every_nth(tuning.sample_candidates(rows, vocab), 21, rng)):
        token_ids, is_finite = in_blocks(logits, parameters, blocks)
        assert_right(token_ids, right, parameters)
        assert is_finite.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": np.zeros(3, np.int32)}, r"4 rows of logits need parameters .*\(3,\)"),
        ({"seeds": np.zeros((4, 1), np.uint32)}, "seeds"),
        ({"blocked_ids": np.zeros(4, np.int32)}, "blocked_ids"),
    ],
)
def test_shapes_must_belong_together(rng, changes, message):
    logits, parameters = random_logits(rng, 4), random_parameters(rng, 4)
    with pytest.raises(ValueError, match=message):
        call(logits, parameters | changes)
    with pytest.raises(ValueError, match="float32"):
        call(logits.astype(np.float16), parameters)


@pytest.mark.parametrize("rows", shapes.ROWS)
@pytest.mark.parametrize("vocab", shapes.VOCABULARIES.values())
def test_a_sweep_has_few_candidates_and_tries_the_heuristic(rows, vocab):
    for blocks, candidates in (
        (tuning.sample_blocks(rows, vocab), tuning.sample_candidates(rows, vocab)),
        (tuning.top_blocks(rows, vocab), tuning.top_candidates(rows, vocab)),
    ):
        assert blocks in candidates
        assert 1 < len(candidates) <= 60


@implementations
@pytest.mark.parametrize("top_p", [0.0, 1e-45, 1e-40, 1.1e-38, 1.2e-38, 1e-30], ids=str)
def test_a_top_p_of_next_to_nothing_keeps_the_most_likely_token(implementation, top_p):
    """With every other filter and temperature: what float32 flushes to 0 is no threshold that everything
    reaches."""
    rng = np.random.default_rng(3)
    logits, parameters = random_logits(rng), random_parameters(rng)
    logits += np.arange(VOCAB) * 1e-3  # no ties, and neither the first nor the last is the most likely
    logits[:, [0, -1]] = -40
    parameters |= {"top_p": np.full(ROWS, top_p, np.float32), "min_lengths": np.zeros(ROWS, np.int32)}
    parameters["temperature"] = rng.choice([0, 0.3, 1, 2, 1e-6, 1e-40], ROWS).astype(np.float32)
    token_ids, _ = call(logits, parameters, implementation=implementation)
    np.testing.assert_array_equal(token_ids, logits.argmax(-1))
