"""Random weights in place of a checkpoint."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import Placement, default_placement
from jinfer.weights.dummy_params import dummy_params
from jinfer.weights.params import flatten
from tests.checkpoints import CONFIG

BIASED = dict(CONFIG, attention_bias=True, mlp_bias=True)


@dataclass(frozen=True)
class Recorded(Placement):
    """Keeps the axes that a layout was asked for."""

    axes: list = field(default_factory=list)

    def sharding(self, axes=()):
        self.axes.append(tuple(axes))
        return super().sharding(axes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_parameter_is_drawn_by_itself_from_the_seed(dtype):
    model = build_model(read_model_config(BIASED), jnp.dtype(dtype), "xla")

    def drawn(seed):
        return flatten(dummy_params(model.param_specs, seed, placement=default_placement()))

    params = drawn(3)
    assert {path: (x.shape, x.dtype) for path, x in params.items()} == {
        path: (x.shape, x.dtype) for path, x in flatten(model.abstract_params).items()
    }
    for path, x in params.items():
        if path.endswith("kernel"):
            assert np.std(np.asarray(x, np.float32)) == pytest.approx(0.02, rel=0.1)
        else:
            assert np.unique(np.asarray(x, np.float32)).tolist() == [float(path.endswith("scale"))]
    assert not np.array_equal(params["embedding/kernel"], params["head/kernel"])
    jax.tree.map(np.testing.assert_array_equal, params, drawn(3))
    assert not np.array_equal(params["head/kernel"], drawn(4)["head/kernel"])


def test_the_placement_says_where_each_parameter_lives():
    specs = build_model(read_model_config(BIASED), jnp.dtype("float32"), "xla").param_specs
    placement = Recorded(default_placement().device)
    params = flatten(dummy_params(specs, 0, placement=placement))

    assert sorted(placement.axes) == sorted(spec.axes for spec in specs.by_path.values())
    assert all(x.committed for x in params.values()), "JAX's default device made it, and not the placement's"
