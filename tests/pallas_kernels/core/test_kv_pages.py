"""Pages in 8 bits: what becomes of a vector, and which bytes are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.core.kv_pages import KVPages, QuantizedKVPages, quantize, quantize_by
from pallas_kernels.core.kv_refs import QuantizedPages
from tests.pallas_kernels import paged_cases
from tests.pallas_kernels.compiled import compiled

DTYPES = (jnp.int8, jnp.float8_e4m3fn)
# Of a vector: half a step of int8 for each element; e4m3 has 3 bits after the first.
BOUNDS = {jnp.int8: 0.5 / 127, jnp.float8_e4m3fn: 1 / 16}


def encoded(x: np.ndarray, dtype) -> tuple[np.ndarray, np.ndarray]:
    """By the code of kernels, which takes a vector in parts of its columns."""
    return tuple(map(np.asarray, compiled(encode_in_parts, dtype=jnp.dtype(dtype))(x)))


def encode_in_parts(
    x: jax.Array, fixed_scale: jax.Array | None = None, *, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    pages = QuantizedPages(jax.ShapeDtypeStruct((2, 1, 1, 1, x.shape[-1]), dtype), None)
    parts, scale = pages.encode([x[..., :5], x[..., 5:]], fixed_scale=fixed_scale, interpret=True)
    return jnp.concatenate(parts, -1), scale


def by_reference(x: np.ndarray, dtype) -> tuple[np.ndarray, np.ndarray]:
    return tuple(map(np.asarray, compiled(quantize, dtype=jnp.dtype(dtype))(x)))


both = pytest.mark.parametrize("quantized_by", [encoded, by_reference], ids=["kernel", "reference"])
each = pytest.mark.parametrize("dtype", DTYPES, ids=jnp.dtype)


@each
@both
def test_a_vector_is_its_values_times_its_scale(rng, quantized_by, dtype):
    x = rng.standard_normal((40, 3, 16), np.float32) * 10.0 ** rng.uniform(-20, 20, (40, 3, 1))
    x = x.astype(np.float32)
    values, scales = quantized_by(x, dtype)
    assert values.dtype == dtype
    largest = np.abs(x).max(-1, keepdims=True)
    error = np.abs(paged_cases.dequantize(values, scales) - x)
    allowed = BOUNDS[dtype] * (largest if dtype == jnp.int8 else np.abs(x))
    near_zero = largest * 2.0**-9 / 448  # e4m3's smallest step
    assert (error <= np.maximum(allowed, near_zero) * 1.001).all()
    wanted, wanted_scales = paged_cases.quantize(x, np.dtype(dtype))
    np.testing.assert_allclose(scales, wanted_scales, rtol=3e-7)
    assert (values.astype(np.float32) != wanted.astype(np.float32)).mean() < 1e-3, "a last bit, now and then"


@each
@both
def test_zeros_have_no_scale(quantized_by, dtype):
    for x in (np.zeros((1, 8), np.float32), np.full((1, 8), 1e-38, np.float32)):
        values, scales = quantized_by(x, dtype)
        assert not values.astype(np.float32).any()
        assert not scales.any()


@both
def test_halves_are_rounded_to_even(quantized_by):
    values, _ = quantized_by(np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -127, 126.5]], np.float32), jnp.int8)
    assert values.tolist() == [[127, 0, 2, 2, 0, -2, -127, 126]]


@each
@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(quantized_by, dtype, bad):
    x = np.ones((3, 8), np.float32)
    x[0, 2], x[1, 6] = bad, bad
    with np.errstate(invalid="ignore"):  # zero times infinity
        dequantized = paged_cases.dequantize(*quantized_by(x, dtype))
    assert not np.isfinite(dequantized[:2]).any()
    np.testing.assert_allclose(dequantized[2], 1, rtol=1e-6)


@each
@pytest.mark.parametrize("quantized_by", [encode_in_parts, quantize_by], ids=["kernel", "reference"])
def test_fixed_scales_give_the_definition_bit_for_bit(rng, quantized_by, dtype):
    """Also elements between two steps, those beyond the largest, and a scale of each head."""
    x = rng.standard_normal((40, 3, 16), np.float32) * 10.0 ** rng.uniform(-3, 1, (40, 3, 1))
    scales = np.array([0.5, 0.01, 3e-5], np.float32)
    x = np.concatenate([x.astype(np.float32), np.arange(-144, 144, dtype=np.float32).reshape(6, 3, 16) / 4])
    quotient = x / scales[:, None]
    if dtype == jnp.int8:
        wanted = np.rint(np.clip(quotient, -128, 127)).astype(np.int8)
    else:
        wanted = np.clip(quotient, -448, 448).astype(dtype).view(np.int8)
    values, kept = compiled(quantized_by, dtype=jnp.dtype(dtype))(x, scales)
    np.testing.assert_array_equal(np.asarray(values).view(np.int8), wanted)
    np.testing.assert_array_equal(kept, np.broadcast_to(scales, (46, 3)))
    assert {-128, 127} <= set(wanted.ravel()) or dtype != jnp.int8


@each
@pytest.mark.parametrize("quantized_by", [encode_in_parts, quantize_by], ids=["kernel", "reference"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_fixed_scale(quantized_by, dtype, bad):
    x = np.ones((3, 8), np.float32)
    x[0, 2], x[1, 6] = bad, bad
    _, kept = compiled(quantized_by, dtype=jnp.dtype(dtype))(x, np.full(1, 0.5, np.float32))
    np.testing.assert_array_equal(kept, [np.nan, np.nan, 0.5])


@each
def test_copies_take_values_and_scales(rng, dtype):
    x = rng.standard_normal((2, 5, 4, 3, 8), np.float32)
    values, scales = quantize(jnp.asarray(x), jnp.dtype(dtype))
    pages = QuantizedKVPages(values, jnp.swapaxes(scales, -1, -2), jnp.dtype(jnp.float32))
    copied = pages.with_copies(jnp.array([1, 2]), jnp.array([4, 3]))
    wanted, got = (np.asarray(p.gathered(jnp.arange(5))) for p in (pages, copied))
    np.testing.assert_array_equal(got, wanted[:, [0, 1, 2, 2, 1]])


@each
def test_both_types_have_one_interface(dtype):
    array = jnp.zeros((2, 5, 4, 3, 8), jnp.bfloat16)
    scales = jnp.zeros((2, 5, 3, 4))
    plain, quantized = KVPages(array), QuantizedKVPages(array.astype(dtype), scales, array.dtype)
    for name in ("num_pages", "page_size", "num_kv_heads", "head_dim", "dtype"):
        assert getattr(plain, name) == getattr(quantized, name), name
    assert (plain.values_dtype, quantized.values_dtype) == (jnp.bfloat16, dtype)
