"""Rows in eight bits: both implementations against the definition, and exactly where no rounding is
close."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.quantize import quantize_rows, triton
from pallas_kernels.quantize.contract import Quantization, RowOperands
from pallas_kernels.quantize.shapes import SHAPES
from tests.pallas_kernels.some import diagonal_pairs

LARGEST = {jnp.int8: 127, jnp.float8_e4m3fn: 448}
EPSILON = 0.1  # large enough to matter

implementations = pytest.mark.parametrize("implementation", ["reference", "pallas"])
dtypes = pytest.mark.parametrize("dtype", LARGEST, ids=lambda dtype: dtype.__name__)


def largest_magnitudes(x: np.ndarray, group_size: int) -> np.ndarray:
    """[rows, groups]"""
    starts = range(0, x.shape[1], group_size)
    return np.stack([np.abs(x[:, start : start + group_size]).max(1) for start in starts], axis=1)


def check(got, x: np.ndarray, dtype, group_size: int) -> None:
    """Values within half a step, and a little for a float32 that was computed otherwise."""
    scales = largest_magnitudes(x, group_size) / LARGEST[dtype]
    assert (got.values.shape, got.values.dtype) == (x.shape, dtype)
    assert (got.scales.shape, got.scales.dtype) == (scales.T.shape, jnp.float32)
    np.testing.assert_allclose(got.scales, scales.T, rtol=2e-6)
    steps = x / scales.repeat(group_size, axis=1)[:, : x.shape[1]]
    values = np.asarray(got.values, np.float64)
    half_a_step = 0.5 if dtype == jnp.int8 else np.maximum(np.abs(steps) / 16, 2.0**-10)
    assert (np.abs(values - steps) <= half_a_step * 1.001 + 1e-4).all()
    assert np.abs(values).max() == LARGEST[dtype]


@implementations
@pytest.mark.parametrize(
    "features", [pytest.param(n, marks=pytest.mark.gpu) for n in SHAPES.values()] + [172]
)
@pytest.mark.parametrize(("dtype", "group_size"), diagonal_pairs([*LARGEST], [None, 128]))
def test_is_the_definition(rng, dtype, group_size, features, implementation):
    x = jnp.asarray(rng.standard_normal((5, features)), jnp.bfloat16)
    got = quantize_rows(x, dtype, group_size=group_size, implementation=implementation)
    check(got, np.asarray(x, np.float64), dtype, group_size or features)


@implementations
@pytest.mark.parametrize(("dtype", "group_size"), diagonal_pairs([*LARGEST], [128, None]))
@pytest.mark.parametrize("layers", [None, 3])
def test_rows_are_normalized_first_and_not_rounded_between(rng, dtype, group_size, layers, implementation):
    x = jnp.asarray(rng.standard_normal((3, 300)), jnp.bfloat16)
    scale = jnp.asarray(rng.standard_normal(300), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    wide = wide / np.sqrt((wide**2).mean(1, keepdims=True) + EPSILON) * np.asarray(scale, np.float64)
    stack = scale if layers is None else jnp.stack([scale * 3, scale, scale * 2])
    got = quantize_rows(
        x,
        dtype,
        group_size=group_size,
        norm=(stack, EPSILON),
        layer=None if layers is None else 1,
        implementation=implementation,
    )
    check(got, wide, dtype, group_size or 300)


@implementations
@dtypes
def test_one_scale_for_all_ends_at_the_ends_of_the_dtype(dtype, implementation):
    x = jnp.asarray([[1.0, -1.5, 2.5, 3.5, 9999.0, -9999.0, 0.0, 0.25]])
    got = quantize_rows(x, dtype, scale=jnp.float32(0.5), implementation=implementation)
    ends = (127, -128) if dtype == jnp.int8 else (448, -448)
    half = 0 if dtype == jnp.int8 else 0.5
    np.testing.assert_array_equal(np.asarray(got.values, np.float32), [[2, -3, 5, 7, *ends, 0, half]])
    np.testing.assert_array_equal(got.scales, [[0.5]])


@implementations
@dtypes
def test_zeros_alone_stay_zeros(dtype, implementation):
    got = quantize_rows(jnp.zeros((2, 256)), dtype, group_size=128, implementation=implementation)
    np.testing.assert_array_equal(np.asarray(got.values, np.float32), np.zeros((2, 256)))
    assert (np.asarray(got.scales) > 0).all()


@implementations
def test_halves_are_rounded_to_even(implementation):
    x = jnp.asarray([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.49]])
    got = quantize_rows(x, implementation=implementation)
    np.testing.assert_array_equal(got.values, [[127, 0, 2, 2, 0, -2, -2, 3]])


@pytest.mark.parametrize("blocks", [RowBlocks(1, 2, False, 1), RowBlocks(4, 1, True, 2)])
@pytest.mark.parametrize("group_size", [64, 640])
def test_blocks_do_not_change_the_result(rng, blocks, group_size):
    x = jnp.asarray(rng.standard_normal((6, 640)), jnp.float32)
    how = Quantization(jnp.dtype(jnp.int8), group_size, None, jnp.dtype(jnp.int8))
    run = functools.partial(triton.quantize_rows, interpret=jax.default_backend() != "gpu")
    check(
        run(RowOperands(x, None, None), None, how, blocks=blocks),
        np.asarray(x, np.float64),
        jnp.int8,
        group_size,
    )


def test_wrong_arguments_are_errors():
    x = jnp.ones((2, 8))
    with pytest.raises(UnsupportedError, match="int16: rows are quantized to int8 or float8_e4m3fn"):
        quantize_rows(x, jnp.int16)
    with pytest.raises(ValueError, match=r"x has shape \(8,\)"):
        quantize_rows(x[0])
    with pytest.raises(ValueError, match="group_size=0: a group has at least one"):
        quantize_rows(x, group_size=0)
    with pytest.raises(ValueError, match="it is one number, for whole rows"):
        quantize_rows(x, group_size=4, scale=jnp.float32(1))
    with pytest.raises(ValueError, match=r"the norm's scale has shape \(4,\) with layer=None; it must"):
        quantize_rows(x, norm=(jnp.ones(4), 1e-6))
    with pytest.raises(ValueError, match="layer=2 is outside of a stack of 2 layers"):
        quantize_rows(x, norm=(jnp.ones((2, 8)), 1e-6), layer=2)
    with pytest.raises(UnsupportedError, match="groups of 3: the kernel serves powers of two"):
        quantize_rows(x, group_size=3, implementation="triton")
