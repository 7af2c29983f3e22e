"""Random weights in place of a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.params import flatten
from tests.checkpoints import CONFIG

BIASED = dict(CONFIG, attention_bias=True, mlp_bias=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_parameter_is_drawn_by_itself_from_the_seed(dtype):
    model = build_model(read_model_config(BIASED), jnp.dtype(dtype), "xla")
    params = flatten(model.dummy_params(3))

    assert {path: (x.shape, x.dtype) for path, x in params.items()} == {
        path: (x.shape, x.dtype) for path, x in flatten(model.abstract_params).items()
    }
    for path, x in params.items():
        if path.endswith("kernel"):
            assert np.std(np.asarray(x, np.float32)) == pytest.approx(0.02, rel=0.1)
        else:
            assert np.unique(np.asarray(x, np.float32)).tolist() == [float(path.endswith("scale"))]
    assert not np.array_equal(params["embedding/kernel"], params["head/kernel"])
    jax.tree.map(np.testing.assert_array_equal, params, flatten(model.dummy_params(3)))
    assert not np.array_equal(params["head/kernel"], flatten(model.dummy_params(4))["head/kernel"])
