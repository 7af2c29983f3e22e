"""Both implementations of SiLU and multiply against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.silu_and_multiply import silu_and_multiply, triton, tuning
from pallas_kernels.silu_and_multiply.shapes import SHAPES
from pallas_kernels.silu_and_multiply.tuning import SiluBlocks
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import diagonal_pairs, every_nth

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}
ALL_HIDDEN = sorted(set(SHAPES.values()))
HIDDEN = [  # in interpret mode a few of them
    hidden if hidden in (172, 768, 1408) else pytest.param(hidden, marks=pytest.mark.gpu)
    for hidden in ALL_HIDDEN
]

implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])
dtypes = pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)


def definition(gate_up):
    gate, up = np.split(np.asarray(gate_up, np.float64), 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def random_gate_up(rng, shape, dtype):
    return jnp.asarray(rng.standard_normal(shape) * 4, dtype)


def check(got, wanted, dtype):
    assert (got.shape, got.dtype) == (wanted.shape, dtype)
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[dtype]


@implementations
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("rows", "dtype"), diagonal_pairs([1, 5], list(BOUNDS)))
def test_is_the_definition(rng, hidden, rows, dtype, implementation):
    gate_up = random_gate_up(rng, (rows, 2 * hidden), dtype)
    check(silu_and_multiply(gate_up, implementation=implementation), definition(gate_up), dtype)


@pytest.mark.parametrize("hidden", [3, 64, 172])
@pytest.mark.parametrize("elements", [32, 256, 4096])
def test_blocks_do_not_change_the_result(rng, hidden, elements):
    gate_up = random_gate_up(rng, (2, 11, 2 * hidden), jnp.float32)
    blocks = SiluBlocks(elements, evict_first=elements == 32, num_warps=1)
    got = triton.silu_and_multiply(gate_up, blocks=blocks, interpret=jax.default_backend() != "gpu")
    check(got, definition(gate_up), jnp.float32)


@implementations
def test_a_large_gate_is_open_or_shut(implementation):
    gate_up = jnp.asarray([[1000.0, -1000.0, 0.0, 2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(silu_and_multiply(gate_up, implementation=implementation), [[2000, 0, 0]])


@pytest.mark.gpu
@dtypes
@pytest.mark.parametrize("hidden", ALL_HIDDEN)
def test_candidates_do_not_change_the_result(rng, hidden, dtype):
    gate_up = random_gate_up(rng, (2**22 // hidden + 5, 2 * hidden), dtype)
    wanted = definition(gate_up)
    for blocks in every_nth(
        tuning.silu_and_multiply_candidates(gate_up.shape[0], hidden, gate_up.dtype.itemsize), 3, rng
    ):
        check(triton.silu_and_multiply(gate_up, interpret=False, blocks=blocks), wanted, dtype)


@pytest.mark.parametrize("num_rows", [1, 64, 65536])
@pytest.mark.parametrize("hidden", ALL_HIDDEN)
def test_a_sweep_has_few_candidates_and_tries_the_heuristic(hidden, num_rows):
    candidates = tuning.silu_and_multiply_candidates(num_rows, hidden, 2)
    assert tuning.silu_and_multiply_blocks(num_rows, hidden, 2) in candidates
    assert 1 < len(candidates) <= 60


def test_an_axis_without_halves_is_an_error():
    with pytest.raises(
        ValueError, match="the last axis of gate_up has 5 elements; gate and up are equal halves"
    ):
        silu_and_multiply(jnp.ones((2, 5)))


def test_more_elements_than_an_index_counts_are_unsupported():
    gate_up = jax.ShapeDtypeStruct((2**18, 2 * 2**13), jnp.bfloat16)
    with pytest.raises(UnsupportedError, match="262144 rows of 8192 elements: the kernel counts to"):
        jax.eval_shape(lambda x: silu_and_multiply(x, implementation="pallas"), gate_up)
