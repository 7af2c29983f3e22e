"""The first state of an engine."""

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.config import EngineLimits
from jinfer.execution.device_state import abstract_device_state
from jinfer.models.registry import read_model_config
from jinfer.placement import default_placement
from tests.tiny_model import CONFIG

LIMITS = EngineLimits(page_size=4, num_pages=12, max_num_seqs=2, max_num_batched_tokens=8, max_model_len=10)


def test_a_new_state_is_zeros_that_placement_has_put_on_its_device():
    """An array on JAX's default device, which is no choice of the engine, is not committed to it."""
    abstract = abstract_device_state(read_model_config(CONFIG), LIMITS, jnp.dtype("float32"))
    placement = default_placement()
    state = placement.zeros(abstract)
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    for array, expected in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True):
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        assert array.sharding == placement.sharding()
        assert array.committed
        assert not np.asarray(array).any()
