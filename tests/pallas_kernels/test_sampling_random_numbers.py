"""The kernels' random numbers are those of jax.random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental import pallas as pl

from pallas_kernels.core.triton_call import triton_call
from pallas_kernels.sampling.triton import random
from tests.pallas_kernels.sampling_cases import modest


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
