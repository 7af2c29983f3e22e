"""Both implementations of sampling against sorting in float64 and the random numbers of jax.random, in every
way that the kernels cut a row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import pallas as pl

from pallas_kernels.core.triton_call import triton_call
from pallas_kernels.sampling import reference, sample, sampled_logits, shapes, top_logprobs, triton, tuning
from pallas_kernels.sampling.draw import MIN_SLICE, draw_slice_size
from pallas_kernels.sampling.triton import random, search
from pallas_kernels.sampling.tuning import SampleBlocks, TopBlocks
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.some import every_nth

ROWS, VOCAB = 16, 203  # so that the last slice, chunk and program overhang
ROUNDING = 1e-5  # of a sum of float32 probabilities, with room
CLOSE_SCORES = 1e-4  # of which either token may win

# Room for all candidates, for none of several ties, and for some; slices in one program and in many.
BLOCKS = [
    SampleBlocks(8, 4, 1, slices_per_chunk=4, candidate_chunk=16, max_candidates=256, num_choice_warps=1),
    SampleBlocks(16, 2, 1, slices_per_chunk=2, candidate_chunk=8, max_candidates=8, num_choice_warps=1),
    SampleBlocks(64, 4, 2, slices_per_chunk=1, candidate_chunk=32, max_candidates=32, num_choice_warps=2),
]
TOP_BLOCKS = [TopBlocks(8, 4, 1), TopBlocks(64, 4, 2), TopBlocks(256, 1, 1)]

implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])
every_way_to_cut = pytest.mark.parametrize("blocks", BLOCKS)
modest = settings(max_examples=150, deadline=None, print_blob=True)


def interpreted() -> bool:
    return jax.default_backend() != "gpu"


def random_parameters(rng, rows: int = ROWS, vocab: int = VOCAB) -> dict[str, np.ndarray]:
    """Every filter alone, with others and not at all, ordinary and extreme; some ids blocked in some rows."""
    return {
        "temperature": rng.choice([0, 0.3, 0.6, 1, 2, 1e-6, 1e20], rows).astype(np.float32),
        "top_p": rng.choice([1, 1, 0.95, 0.5, 0.1, 1e-5, 0.9999], rows).astype(np.float32),
        "min_p": rng.choice([0, 0, 0.01, 0.3, 1], rows).astype(np.float32),
        "top_k": rng.choice([-1, 0, 1, 2, 20, 100, vocab, vocab + 3], rows).astype(np.int32),
        "seeds": rng.integers(0, 2**32, (rows, 2), dtype=np.uint32),
        "positions": rng.integers(0, 3000, rows).astype(np.int32),
        "min_lengths": rng.integers(0, 3000, rows).astype(np.int32),
        "blocked_ids": rng.integers(-1, vocab, (rows, 5)).astype(np.int32),
    }


def random_logits(rng, rows: int = ROWS, vocab: int = VOCAB) -> np.ndarray:
    """Flat and steep, positive and negative, and in a third of the rows with many ties."""
    logits = rng.standard_normal((rows, vocab)) * rng.choice([0.1, 1, 8], (rows, 1)) + rng.uniform(
        -30, 30, (rows, 1)
    )
    ties = rng.random((rows, 1)) < 0.3
    return np.where(ties, np.round(logits), logits).astype(np.float32)


def kept_by_sorting(logits, top_k, top_p, min_p, tie=0.0):
    """Which tokens pass every filter, in float64. Probabilities that differ by a share of `tie` count as
    equal."""
    logits = logits.astype(np.float64)
    k = min(top_k, len(logits)) if top_k > 0 else len(logits)
    kept = logits >= np.sort(logits)[::-1][k - 1]
    exponentials = np.where(kept, np.exp(logits - logits.max()), 0)
    probabilities = exponentials / exponentials.sum()
    if top_p < 1:
        ordered = np.sort(probabilities)[::-1]
        reaches = np.flatnonzero(np.cumsum(ordered) >= top_p)
        kept &= probabilities >= (ordered[reaches[0]] if reaches.size else 0) * (1 - tie)
    return kept & (probabilities >= min_p * probabilities.max())


def right_tokens(
    slice_size, logits, temperature, top_p, min_p, top_k, seeds, positions, min_lengths, blocked_ids
):
    """Of one row: several, where what decides between them is as good as equal."""
    logits = logits.astype(np.float64)
    if positions < min_lengths:
        logits[[i for i in blocked_ids if i >= 0]] = -np.inf
    if temperature == 0:
        return [int(logits.argmax())]
    scaled = (logits - logits.max()) / np.float64(temperature)
    key = jax.random.fold_in(jax.random.wrap_key_data(seeds, impl="threefry2x32"), positions)
    scores = scaled + np.asarray(jax.random.gumbel(key, logits.shape), np.float64)
    if not (0 < top_k < len(logits) or top_p < 1 or min_p > 0):
        slices = drawn_slices(scaled, key, slice_size)
        return [
            i for each in slices for i in each[scores[each] >= scores[each].max() - CLOSE_SCORES].tolist()
        ]
    # Not even float64 knows a probability of 1 / 200 from a sum that differs by that much less than ROUNDING.
    surely = kept_by_sorting(scaled, top_k, top_p - ROUNDING, min(min_p * (1 + ROUNDING), 1))
    perhaps = kept_by_sorting(scaled, top_k, min(top_p + ROUNDING, 1.0), min_p * (1 - ROUNDING), tie=ROUNDING)
    return np.flatnonzero(perhaps & (scores >= scores[surely].max() - CLOSE_SCORES)).tolist()


def drawn_slices(scaled, key, slice_size):
    """The tokens of the slice that is drawn where there are no filters; of several that are as good as
    equal."""
    tokens = np.split(np.arange(len(scaled)), range(slice_size, len(scaled), slice_size))
    with np.errstate(divide="ignore"):
        scores = np.log([np.exp(scaled[each]).sum() for each in tokens])
    scores += np.asarray(jax.random.gumbel(jax.random.fold_in(key, len(scaled)), scores.shape), np.float64)
    return [tokens[i] for i in np.flatnonzero(scores >= scores.max() - CLOSE_SCORES)]


def check(token_ids, logits, parameters, blocks=None):
    assert_right(token_ids, all_right_tokens(logits, parameters, blocks), parameters)


def all_right_tokens(logits, parameters, blocks=None):
    slice_size = blocks.slice_size if blocks else draw_slice_size(logits.shape[1])
    rows = [{name: x[i] for name, x in parameters.items()} for i in range(len(logits))]
    return [right_tokens(slice_size, row, **of_row) for row, of_row in zip(logits, rows, strict=True)]


def assert_right(token_ids, right, parameters):
    for i, token_id in enumerate(np.asarray(token_ids).tolist()):
        assert token_id in right[i], (i, {name: x[i] for name, x in parameters.items()})


def in_blocks(logits, parameters, blocks):
    arrays = map(jnp.asarray, (logits, *parameters.values()))
    return jax.tree.map(np.asarray, triton.sample(*arrays, blocks=blocks, interpret=interpreted()))


def call(logits, parameters, **options):
    arrays = {name: jnp.asarray(x) for name, x in parameters.items()}
    return jax.tree.map(np.asarray, compiled(sample, **options)(jnp.asarray(logits), **arrays))


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


# --- tokens


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


# --- random numbers


@modest
@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**31 - 1))
def test_random_bits_are_those_of_jax(seed, position):
    words = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    key = jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), position)
    ours = random.random_bits(random.fold_in((words[0], words[1]), jnp.int32(position)), jnp.arange(97))
    np.testing.assert_array_equal(ours, jax.random.bits(key, (97,)))
    np.testing.assert_array_equal(random.gumbel(ours, interpret=True), jax.random.gumbel(key, (97,)))


def test_the_logarithm_near_one():
    v = np.arange(1, 2**21 + 1, dtype=np.float32) * np.float32(2**-23)
    expected = -np.log1p(-v.astype(np.float64))
    np.testing.assert_allclose(random.minus_log_of_one_minus(jnp.asarray(v)), expected, rtol=3e-7)


@pytest.mark.gpu
def test_the_fast_gumbel_is_that_of_jax():
    """For all bits that a float32 sees, 2**23 of them."""
    bits = (np.arange(2**23, dtype=np.uint32) << np.uint32(9)).reshape(-1, 1024)
    (fast,) = triton_call(
        _gumbel_kernel,
        jnp.asarray(bits),
        out_shape=[jax.ShapeDtypeStruct(bits.shape, jnp.float32)],
        grid=(bits.shape[0],),
        num_warps=4,
        num_stages=1,
        interpret=False,
        name="gumbel",
    )
    np.testing.assert_allclose(fast, random.gumbel(jnp.asarray(bits), interpret=True), rtol=0, atol=5e-6)


def _gumbel_kernel(bits_ref, out_ref):
    row = pl.program_id(0)
    out_ref[row, :] = random.gumbel(bits_ref[row, :], interpret=False)


# --- thresholds


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


# --- log probabilities


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


# --- blocks


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
