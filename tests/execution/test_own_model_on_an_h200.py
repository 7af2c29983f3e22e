"""A step of a model from outside of the package compiles for an H200 into one CUDA graph, as others do."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jinfer.batching.batch import layout_of, size_of
from jinfer.batching.buckets import StepShape
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.step import run_step
from tests.end_to_end.own_model import Sizes, parallel
from tests.execution.test_steps_on_an_h200 import LIMITS, OPTIONS, interpret_nothing
from tests.pallas_kernels.h200 import CompiledProgram, compile_for_h200, compiler_process, what_is_missing

pytestmark = pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or "")

SIZES = Sizes(vocab=4096, width=1024, heads=8, kv_heads=4, head_dim=128, hidden=2048, context=40_960)
SHAPES = StepShape(8), StepShape(64, 256)


def compile_own_step(shape: StepShape) -> CompiledProgram:
    interpret_nothing()
    model = parallel(SIZES).build(jnp.dtype("bfloat16"), "pallas")
    state = abstract_device_state(model.config, LIMITS, jnp.dtype("bfloat16"))
    packed = jax.ShapeDtypeStruct((size_of(layout_of(shape, LIMITS)),), jnp.int32)
    step = functools.partial(run_step, model, shape, LIMITS)
    return compile_for_h200(step, model.abstract_params, state, packed, donate=[1], compiler_options=OPTIONS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_is_one_graph_that_writes_its_cache_in_place(shape: StepShape) -> None:
    with compiler_process(compile_own_step) as compile_:
        program = compile_(shape)
    state = abstract_device_state(parallel(SIZES).config, LIMITS, jnp.dtype("bfloat16")).kv_cache
    cache_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert program.thunks == ["kCommandBuffer"]
    assert program.aliased_bytes >= cache_bytes
    assert program.temporary_bytes < cache_bytes / 2
