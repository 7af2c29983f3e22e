"""Linear layers of every number of rows and dtype, whichever kernel multiplies them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.layers import Embedding, Linear, RMSNorm

FEATURES, OUTPUTS = 32, 48
BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}


def normal(*shape: int, dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("rows", [1, 16, 17, 32, 33])
def test_layers_serve_any_number_of_rows_in_each_dtype(rows, dtype):
    """Where a kernel of ours does not, XLA does: an engine in float32 has steps of more rows than its kernel
    takes."""
    outputs = []
    for implementation in ("pallas", "xla"):
        linear = Linear(normal(2, FEATURES, OUTPUTS, dtype=dtype), None, implementation)
        norm = RMSNorm(normal(2, FEATURES, dtype=dtype), 1e-6)
        head = Embedding(normal(OUTPUTS, FEATURES, dtype=dtype), implementation)
        x, residual = normal(rows, FEATURES, dtype=dtype), normal(rows, OUTPUTS, dtype=dtype)
        outputs.append([linear(x, 1, residual=residual), linear(x, 1, norm=norm), head.logits(x, norm)])
    for got, wanted in zip(*outputs, strict=True):
        got, wanted = np.asarray(got, np.float32), np.asarray(wanted, np.float32)
        assert np.linalg.norm(got - wanted) < BOUNDS[dtype] * np.linalg.norm(wanted)
