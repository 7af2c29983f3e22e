"""Rows of logits and parameters for tests of sampling, and the right tokens of each: by sorting in float64
and the random numbers of jax.random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings

from pallas_kernels.sampling import sample, triton
from pallas_kernels.sampling.draw import draw_slice_size
from pallas_kernels.sampling.tuning import SampleBlocks, TopBlocks
from tests.pallas_kernels.compiled import compiled

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
