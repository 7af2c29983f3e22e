"""Both implementations of RMSNorm against the definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.rms_norm import rms_norm
from pallas_kernels.rms_norm.shapes import SHAPES
from tests.pallas_kernels.paged_cases import relative_error

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rows", [1, 7, 33])
def test_is_the_definition(rng, name, rows, dtype, implementation):
    x = jnp.asarray(rng.standard_normal((rows, SHAPES[name])) * 3, dtype)
    weight = jnp.asarray(rng.standard_normal(SHAPES[name]), dtype)
    wide, scale = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    wanted = wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + 1e-6) * scale
    got = rms_norm(x, weight, epsilon=1e-6, implementation=implementation)
    assert got.dtype == dtype
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[dtype]


def test_leading_axes_are_kept(rng):
    x = jnp.asarray(rng.standard_normal((2, 3, 80)), jnp.float32)
    got = rms_norm(x, jnp.ones(80), epsilon=1e-6, implementation="pallas")
    assert got.shape == x.shape


def test_a_weight_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), but the last axis of x has 4 features"):
        rms_norm(jnp.ones((2, 4)), jnp.ones(3), epsilon=1e-6)
