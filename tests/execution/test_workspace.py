"""The workspace of steps, from their compilation alone."""

from dataclasses import replace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from jinfer.batching.buckets import StepShape
from jinfer.config import CompilerOptions, EngineLimits
from jinfer.execution import workspace
from jinfer.execution.compiled_steps import lower_step
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.workspace import (
    estimated_workspace_bytes,
    largest_workspace_bytes,
    probe,
    start_probing,
    step_workspace_bytes,
)
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import Placement
from tests.models.configs import windows_of, with_windows
from tests.tiny_model import CONFIG

LIMITS = EngineLimits(page_size=4, num_pages=50, max_num_seqs=2, max_num_batched_tokens=4, max_model_len=32)
FLOAT32 = jnp.dtype("float32")
MODEL = build_model(read_model_config(dict(CONFIG, num_hidden_layers=1)), FLOAT32, "xla")
CPU = Placement(jax.devices("cpu")[0])


def test_temporaries_and_new_results_count_and_donated_arguments_do_not():
    def f(state, x):
        return state + 1, jnp.sort(jnp.sort(x @ x.T, axis=1), axis=0) @ x

    state, x = (jax.ShapeDtypeStruct(shape, FLOAT32) for shape in ((1000, 1000), (300, 200)))
    with jax.default_device(CPU.device):  # products of a GPU have a workspace beside
        found = step_workspace_bytes(jax.jit(f, donate_argnums=0).lower(state, x).compile())

    new_result, between = 300 * 200 * 4, 300 * 300 * 4
    assert found is not None
    assert new_result + between <= found < 1000 * 1000 * 4


def test_a_backend_that_does_not_say_is_not_guessed_for():
    silent = Mock(spec=jax.stages.Compiled, memory_analysis=Mock(return_value=None))

    assert step_workspace_bytes(silent) is None
    assert largest_workspace_bytes({StepShape(1): silent}) is None
    assert largest_workspace_bytes({}) is None


def fake_step(size: int) -> Mock:
    analysis = Mock(temp_size_in_bytes=size, output_size_in_bytes=0, alias_size_in_bytes=0)
    return Mock(spec=jax.stages.Compiled, memory_analysis=Mock(return_value=analysis))


def test_the_largest_step_of_each_kind_is_compiled_and_the_larger_counts(monkeypatch):
    limits = replace(LIMITS, max_num_seqs=13, max_num_batched_tokens=100)
    sizes = {StepShape(13): 500, StepShape(13, 100): 700}
    compiled = []

    def compile_step(model, limits, params, state, config, device, shape, **options):
        compiled.append(shape)
        assert state.kv_cache[0].num_pages == limits.num_pages
        return fake_step(sizes[shape])

    monkeypatch.setattr(workspace, "compile_step", compile_step)

    assert probe(MODEL, limits, FLOAT32, CPU, CompilerOptions()) == 700
    assert set(compiled) == set(sizes)


@pytest.mark.parametrize(
    ("windows", "probed"),
    [
        ((None,), (None,)),
        ((None,) * 6, (None,) * 3),
        ((8, None), (8, None)),
        ((None, 8, 8, None, 4, 8), (None, 8, 4, None)),
    ],
)
def test_a_layer_of_each_kind_is_compiled_before_the_last(monkeypatch, windows, probed):
    """That the others need no more on a GPU: test_steps_on_an_h200.py."""
    config = with_windows(MODEL.config, windows)
    compiled = []

    def compile_step(model, limits, params, state, config, device, shape, **options):
        compiled.append(windows_of(model.config))
        num_layers = len(state.kv_cache)
        assert num_layers == params["attention_norm"]["scale"].shape[0] == model.config.num_layers
        return fake_step(1)

    monkeypatch.setattr(workspace, "compile_step", compile_step)
    probe(build_model(config, FLOAT32, "xla"), LIMITS, FLOAT32, CPU, CompilerOptions())
    assert compiled == [probed] * 2


def test_the_workspace_of_a_step_does_not_depend_on_the_number_of_pages():
    def size_with(num_pages: int) -> int | None:
        limits, shape = replace(LIMITS, num_pages=num_pages), StepShape(2)
        state = abstract_device_state(MODEL.config, limits, FLOAT32)
        with jax.default_device(CPU.device):
            step = lower_step(MODEL, limits, MODEL.abstract_params, state, shape).compile()
        return step_workspace_bytes(step)

    few, many = size_with(50), size_with(2000)

    assert few == many
    assert 0 < few < estimated_workspace_bytes(MODEL.config, LIMITS, FLOAT32) + 10**6


def test_on_a_cpu_nothing_is_compiled_for_it(monkeypatch):
    monkeypatch.setattr(workspace, "probe", Mock(side_effect=AssertionError("it was")))

    assert start_probing(MODEL, LIMITS, FLOAT32, CPU, CompilerOptions()).result(timeout=60) is None


def test_what_compiling_raises_comes_with_the_result(monkeypatch):
    placement = Placement(Mock(spec=jax.Device, platform="gpu"))
    monkeypatch.setattr(workspace, "probe", Mock(side_effect=RuntimeError("the compiler is gone")))

    with pytest.raises(RuntimeError, match="the compiler is gone"):
        start_probing(MODEL, LIMITS, FLOAT32, placement, CompilerOptions()).result(timeout=60)
