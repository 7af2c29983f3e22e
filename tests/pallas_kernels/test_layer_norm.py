"""Both implementations of layer normalization against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.layer_norm import layer_norm, triton, tuning
from pallas_kernels.layer_norm.shapes import SHAPES
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import diagonal_pairs, every_nth

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}
EPSILON = 1e-5

implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])
dtypes = pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)


def definition(x, weight, bias):
    wide = np.asarray(x, np.float64)
    normalized = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + EPSILON)
    scaled = normalized if weight is None else normalized * np.asarray(weight, np.float64)
    return scaled if bias is None else scaled + np.asarray(bias, np.float64)


def random_inputs(rng, shape, dtype):
    """Rows whose mean is a few times their deviation, a weight and a bias."""
    x = rng.standard_normal(shape) * 3 + rng.uniform(-10, 10, (*shape[:-1], 1))
    weight, bias = rng.standard_normal((2, shape[-1]))
    return jnp.asarray(x, dtype), jnp.asarray(weight, dtype), jnp.asarray(bias, dtype)


def check(got, wanted, dtype):
    assert got.dtype == dtype
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[dtype]


@implementations
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("gpt2", "phi-2", "bloom-7b1") else pytest.param(name, marks=pytest.mark.gpu)
        for name in SHAPES
    ],
)
@pytest.mark.parametrize(("rows", "dtype"), diagonal_pairs([1, 33], list(BOUNDS)))
def test_is_the_definition(rng, name, rows, dtype, implementation):
    arguments = random_inputs(rng, (rows, SHAPES[name]), dtype)
    got = layer_norm(*arguments, epsilon=EPSILON, implementation=implementation)
    check(got, definition(*arguments), dtype)


@implementations
@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_weight_and_bias_may_be_absent(rng, has_weight, has_bias, implementation):
    x, weight, bias = random_inputs(rng, (2, 3, 80), jnp.float32)
    arguments = x, weight if has_weight else None, bias if has_bias else None
    got = layer_norm(*arguments, epsilon=EPSILON, implementation=implementation)
    check(got, definition(*arguments), jnp.float32)


@pytest.mark.parametrize("features", [80, 128])
@pytest.mark.parametrize(
    "blocks",
    [
        RowBlocks(rows=1, pieces=1, evict_first=False, num_warps=1),
        RowBlocks(rows=4, pieces=2, evict_first=True, num_warps=4),
        RowBlocks(rows=1, pieces=2, evict_first=True, num_warps=2),
    ],
)
def test_blocks_do_not_change_the_result(rng, features, blocks):
    arguments = random_inputs(rng, (285, features), jnp.float32)
    got = triton.layer_norm(*arguments, EPSILON, blocks=blocks, interpret=jax.default_backend() != "gpu")
    check(got, definition(*arguments), jnp.float32)


@pytest.mark.gpu
@dtypes
@pytest.mark.parametrize("name", SHAPES)
def test_candidates_do_not_change_the_result(rng, name, dtype):
    arguments = random_inputs(rng, (2**22 // SHAPES[name] + 5, SHAPES[name]), dtype)
    wanted = definition(*arguments)
    for blocks in every_nth(
        tuning.layer_norm_candidates(*arguments[0].shape, arguments[0].dtype.itemsize), 3, rng
    ):
        check(triton.layer_norm(*arguments, EPSILON, interpret=False, blocks=blocks), wanted, dtype)


@pytest.mark.parametrize("num_rows", [1, 64, 65536])
@pytest.mark.parametrize("name", SHAPES)
def test_a_sweep_has_few_candidates_and_tries_the_heuristic(name, num_rows):
    candidates = tuning.layer_norm_candidates(num_rows, SHAPES[name], 2)
    assert tuning.layer_norm_blocks(num_rows, SHAPES[name], 2) in candidates
    assert 1 < len(candidates) <= 60


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_vector_of_another_size_is_an_error(name):
    vectors = {"weight": jnp.ones(4), "bias": jnp.ones(4)} | {name: jnp.ones(3)}
    with pytest.raises(ValueError, match=rf"{name} has shape \(3,\), but the last axis of x has 4 features"):
        layer_norm(jnp.ones((2, 4)), **vectors, epsilon=EPSILON)


def test_rows_beyond_the_registers_are_unsupported():
    with pytest.raises(
        UnsupportedError, match="20000 features: a program holds a whole row, of at most 16384"
    ):
        layer_norm(jnp.ones((1, 20000)), None, None, epsilon=EPSILON, implementation="pallas")
