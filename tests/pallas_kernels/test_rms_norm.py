"""Both implementations of RMSNorm, alone and behind an addition, against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.rms_norm import add_rms_norm, rms_norm, triton, tuning
from pallas_kernels.rms_norm.shapes import SHAPES
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import diagonal_pairs, every_nth

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}
EPSILON = 1e-6
ALL_FEATURES = sorted(set(SHAPES.values()))
FEATURES = [  # in interpret mode a few of them, of each kind: padded, in two pieces, and neither
    features if features in (80, 128, 2880, 5120) else pytest.param(features, marks=pytest.mark.gpu)
    for features in ALL_FEATURES
]

# One row and several, in one piece and in two.
BLOCKS = [
    RowBlocks(rows=1, pieces=1, evict_first=False, num_warps=1),
    RowBlocks(rows=4, pieces=2, evict_first=True, num_warps=4),
    RowBlocks(rows=1, pieces=2, evict_first=True, num_warps=2),
]

implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])
dtypes = pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)


def definition(x, weight):
    wide = np.asarray(x, np.float64)
    return wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + EPSILON) * np.asarray(weight, np.float64)


def random_inputs(rng, shape, dtype, count):
    """`count` arrays of that shape and a weight."""
    arrays = [jnp.asarray(rng.standard_normal(shape) * 3, dtype) for _ in range(count)]
    return *arrays, jnp.asarray(rng.standard_normal(shape[-1]), dtype)


def check(got, wanted, dtype):
    assert got.dtype == dtype
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[dtype]


@implementations
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize(("rows", "dtype"), diagonal_pairs([1, 33], list(BOUNDS)))
def test_is_the_definition(rng, features, rows, dtype, implementation):
    x, weight = random_inputs(rng, (rows, features), dtype, 1)
    got = rms_norm(x, weight, epsilon=EPSILON, implementation=implementation)
    check(got, definition(x, weight), dtype)


@implementations
@dtypes
@pytest.mark.parametrize("features", FEATURES)
def test_adds_rounds_and_normalizes(rng, features, dtype, implementation):
    x, residual, weight = random_inputs(rng, (7, features), dtype, 2)
    got, new_residual = add_rms_norm(x, residual, weight, epsilon=EPSILON, implementation=implementation)
    np.testing.assert_array_equal(new_residual, x + residual)
    check(got, definition(x + residual, weight), dtype)


@pytest.mark.parametrize("jit", [jax.jit, lambda f: f])
def test_the_reference_of_the_pair_is_the_pair(rng, jit):
    x, residual, weight = random_inputs(rng, (9, 256), jnp.bfloat16, 2)
    f = functools.partial(add_rms_norm, epsilon=EPSILON, implementation="reference")
    got, new_residual = jit(f)(x, residual, weight)
    np.testing.assert_array_equal(new_residual, x + residual)
    alone = functools.partial(rms_norm, epsilon=EPSILON, implementation="reference")
    np.testing.assert_array_equal(got, jit(alone)(x + residual, weight))


@implementations
def test_normalizes_the_rounded_sum(rng, implementation):
    """Normalizing the sum before it is rounded gives another result in one place of three."""
    x, residual, weight = random_inputs(rng, (9, 256), jnp.bfloat16, 2)
    got, _ = add_rms_norm(x, residual, weight, epsilon=EPSILON, implementation=implementation)
    alone = rms_norm(x + residual, weight, epsilon=EPSILON, implementation=implementation)
    assert np.mean(np.asarray(got != alone)) < 0.01  # sums in another order round differently now and then


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("features", [80, 128])
def test_blocks_do_not_change_the_result(rng, features, blocks):
    x, residual, weight = random_inputs(rng, (285, features), jnp.float32, 2)
    options = {"blocks": blocks, "interpret": jax.default_backend() != "gpu"}
    check(triton.rms_norm(x, weight, EPSILON, **options), definition(x, weight), jnp.float32)
    got, new_residual = triton.add_rms_norm(x, residual, weight, EPSILON, **options)
    np.testing.assert_array_equal(new_residual, x + residual)
    check(got, definition(x + residual, weight), jnp.float32)


@pytest.mark.gpu
@dtypes
@pytest.mark.parametrize("features", ALL_FEATURES)
def test_candidates_do_not_change_the_result(rng, features, dtype):
    x, residual, weight = random_inputs(rng, (2**22 // features + 5, features), dtype, 2)
    facts = *x.shape, x.dtype.itemsize
    for blocks in every_nth(tuning.rms_norm_candidates(*facts), 3, rng):
        check(
            triton.rms_norm(x, weight, EPSILON, interpret=False, blocks=blocks), definition(x, weight), dtype
        )
    wanted = definition(x + residual, weight)
    for blocks in every_nth(tuning.add_rms_norm_candidates(*facts), 3, rng):
        got, new_residual = triton.add_rms_norm(x, residual, weight, EPSILON, interpret=False, blocks=blocks)
        np.testing.assert_array_equal(new_residual, x + residual)
        check(got, wanted, dtype)


def test_leading_axes_are_kept(rng):
    x, residual, weight = random_inputs(rng, (2, 3, 80), jnp.float32, 2)
    assert rms_norm(x, weight, epsilon=EPSILON, implementation="pallas").shape == x.shape
    got, new_residual = add_rms_norm(x, residual, weight, epsilon=EPSILON, implementation="pallas")
    assert got.shape == new_residual.shape == x.shape


@pytest.mark.parametrize("num_rows", [1, 64, 8192, 65536])
@pytest.mark.parametrize("features", ALL_FEATURES)
def test_a_sweep_has_few_candidates_and_tries_the_heuristic(features, num_rows):
    for kernel in "rms_norm", "add_rms_norm":
        heuristic, candidates = (
            getattr(tuning, f"{kernel}_{what}")(num_rows, features, 2) for what in ("blocks", "candidates")
        )
        assert heuristic in candidates
        assert 1 < len(candidates) <= 60


def test_a_weight_of_another_size_is_an_error():
    message = r"weight has shape \(3,\), but the last axis of x has 4 features"
    with pytest.raises(ValueError, match=message):
        rms_norm(jnp.ones((2, 4)), jnp.ones(3), epsilon=EPSILON)
    with pytest.raises(ValueError, match=message):
        add_rms_norm(jnp.ones((2, 4)), jnp.ones((2, 4)), jnp.ones(3), epsilon=EPSILON)


@pytest.mark.parametrize("residual", [jnp.ones((1, 4)), jnp.ones((2, 4), jnp.bfloat16)])
def test_a_residual_unlike_x_is_an_error(residual):
    with pytest.raises(
        ValueError, match=r"x is float32 \(2, 4\) and residual .*; they must be equal to be added"
    ):
        add_rms_norm(jnp.ones((2, 4)), residual, jnp.ones(4), epsilon=EPSILON)


def test_rows_beyond_the_registers_are_unsupported():
    x = jnp.ones((1, 20000))
    with pytest.raises(
        UnsupportedError, match="20000 features: a program holds a whole row, of at most 16384"
    ):
        rms_norm(x, x[0], epsilon=EPSILON, implementation="pallas")
