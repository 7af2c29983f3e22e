"""What the compiled steps must not do."""

import re

import jax.numpy as jnp
import pytest

from jinfer.batching.buckets import Buckets
from jinfer.config import EngineLimits
from jinfer.execution.compiled_steps import lower_step
from jinfer.execution.device_state import abstract_device_state
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.hub import DEMO_MODEL, read_json

LIMITS = EngineLimits(
    page_size=16, num_pages=65, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=256
)


@pytest.mark.parametrize("shape", Buckets.for_limits(LIMITS).all, ids=str)
def test_no_step_copies_the_cache(shape, users_compiler_options):
    """Every layer's cache is updated in place: one token, several, or a chunk."""
    config = read_model_config(read_json(DEMO_MODEL / "config.json"))
    model = build_model(config, jnp.dtype("float32"), "auto")
    state = abstract_device_state(config, LIMITS, jnp.dtype("float32"))
    compiled = lower_step(model, LIMITS, model.abstract_params, state, shape).compile(users_compiler_options)
    layer = "f32[" + ",".join(map(str, state.kv_cache[0].array.shape)) + "]"
    made = re.findall(rf"= {re.escape(layer)}\S* ([\w-]+)\(", compiled.as_text())
    assert made, "the cache is in the program"
    assert "copy" not in made
    assert "dynamic-update-slice" not in made
