"""Both implementations of softmax against the definition, and every way that the kernels cut a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.softmax import softmax, triton, tuning
from pallas_kernels.softmax.shapes import EXPERTS, VOCABULARIES
from pallas_kernels.softmax.tuning import LongBlocks
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import every_nth

# Where one entry has nearly all of the norm, rounding it to bfloat16 alone is an error of up to 2 ** -8.
BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 2**-8}
ALL_FEATURES = sorted({*EXPERTS.values(), *VOCABULARIES.values()})
FEATURES = [  # in interpret mode a few of them, of each kind
    features if features in (8, 128, 32000, 51200) else pytest.param(features, marks=pytest.mark.gpu)
    for features in ALL_FEATURES
]

# Rows in one piece and in two; and long rows by one program, by two, and by more than have a share.
BLOCKS = [
    RowBlocks(rows=4, pieces=1, evict_first=False, num_warps=1),
    RowBlocks(rows=2, pieces=2, evict_first=True, num_warps=4),
    RowBlocks(rows=1, pieces=2, evict_first=True, num_warps=2),
    LongBlocks(chunk=128, splits=1, evict_first=False, num_warps=1),
    LongBlocks(chunk=256, splits=2, evict_first=True, num_warps=1),
    LongBlocks(chunk=256, splits=5, evict_first=False, num_warps=2),
]

implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])
dtypes = pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
every_way_to_cut = pytest.mark.parametrize("blocks", BLOCKS)


def definition(x):
    wide = np.asarray(x, np.float64)
    exponentials = np.exp(wide - wide.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def random_logits(rng, shape, dtype):
    return jnp.asarray(rng.standard_normal(shape) * 5 + rng.uniform(-100, 100, (*shape[:-1], 1)), dtype)


def in_blocks(x, blocks):
    return compiled(triton.softmax, blocks=blocks, interpret=jax.default_backend() != "gpu")(x)


def check(got, wanted, dtype):
    assert got.dtype == dtype
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[dtype]


@implementations
@dtypes
@pytest.mark.parametrize("features", FEATURES)
def test_is_the_definition(rng, features, dtype, implementation):
    x = random_logits(rng, (33 if features < 1000 else 2, features), dtype)
    check(softmax(x, implementation=implementation), definition(x), dtype)


@every_way_to_cut
@pytest.mark.parametrize(("rows", "features"), [(141, 96), (5, 600)])
def test_blocks_do_not_change_the_result(rng, rows, features, blocks):
    x = random_logits(rng, (rows, features), jnp.float32)
    check(in_blocks(x, blocks), definition(x), jnp.float32)


@every_way_to_cut
def test_minus_infinity_has_no_probability(rng, blocks):
    """Where whole chunks, parts or all lanes but one hold nothing else, too; the last row is what they
    hold."""
    x = random_logits(rng, (5, 600), jnp.float32)
    x = x.at[0, :300].set(-jnp.inf).at[1, 256:].set(-jnp.inf).at[2, ::2].set(-jnp.inf)
    x = x.at[3].set(-jnp.inf).at[3, 417].set(-50.0).at[4].set(-jnp.inf)
    got = in_blocks(x, blocks)
    check(got[:4], definition(x[:4]), jnp.float32)
    assert (np.asarray(got)[np.isneginf(x[:4]).nonzero()] == 0).all()
    assert np.isnan(got[4]).all()


@implementations
@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_a_row_without_a_distribution_is_nan(rng, value, implementation):
    """As in jax.nn.softmax, and its neighbours do not notice."""
    x = random_logits(rng, (3, 70), jnp.float32)
    x = x.at[1].set(value) if value == -np.inf else x.at[1, 5].set(value)
    got = softmax(x, implementation=implementation)
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(jax.nn.softmax(x)))
    check(got[::2], definition(x[::2]), jnp.float32)


@every_way_to_cut
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_blocks_do_not_hide_what_is_not_a_number(rng, value, blocks):
    x = random_logits(rng, (5, 600), jnp.float32).at[1, 300].set(value)
    got = in_blocks(x, blocks)
    assert np.isnan(got[1]).all()
    check(got[::2], definition(x[::2]), jnp.float32)


def test_leading_axes_are_kept(rng):
    x = random_logits(rng, (2, 3, 32), jnp.float32)
    check(softmax(x, implementation="pallas"), definition(x), jnp.float32)


@pytest.mark.gpu
@dtypes
@pytest.mark.parametrize("features", ALL_FEATURES)
def test_candidates_do_not_change_the_result(rng, features, dtype):
    for num_rows in (3, 2**24 // features + 5):
        x = random_logits(rng, (num_rows, features), dtype)
        wanted = definition(x)
        for blocks in every_nth(tuning.softmax_candidates(num_rows, features, x.dtype.itemsize), 3, rng):
            check(triton.softmax(x, interpret=False, blocks=blocks), wanted, dtype)


@pytest.mark.parametrize("num_rows", [1, 64, 8192])
@pytest.mark.parametrize("features", ALL_FEATURES)
def test_a_sweep_has_few_candidates_and_tries_the_heuristic(features, num_rows):
    candidates = tuning.softmax_candidates(num_rows, features, 2)
    assert tuning.softmax_blocks(num_rows, features, 2) in candidates
    assert 1 < len(candidates) <= 60
