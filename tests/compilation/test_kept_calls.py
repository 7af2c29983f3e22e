"""The small programs of a start are compiled once, and found at the next start."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.compilation.kept_calls import KeptCalls
from jinfer.compilation.program import Compilation
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import Placement, default_placement
from jinfer.weights.dummy_params import dummy_params
from jinfer.weights.params import flatten
from jinfer.weights.safetensors import load_checkpoint
from tests.checkpoints import CONFIG, write_checkpoint
from tests.tiny_model import tiny_llm

FLOAT32 = jnp.dtype("float32")


def placement(directory: Path) -> Placement:
    """That of a process of its own, in which nothing is compiled yet."""
    jax.clear_caches()
    device = jax.devices()[0]
    return Placement(device, KeptCalls(Compilation(device, None, directory, traces_directory=None)))


@functools.partial(jax.jit, static_argnums=1)
def times(x, factor):
    return x * factor


def test_each_kind_of_call_is_compiled_once(tmp_path, no_cache_of_jax, xla):
    for number in (1, 2):
        call = placement(tmp_path).call
        for _ in range(2):
            assert call(times, np.ones(3), static=(2,)).tolist() == [2, 2, 2]
            assert call(times, np.ones(3), static=(3,)).tolist() == [3, 3, 3]
            assert call(times, np.ones(2, np.int32), static=(2,)).tolist() == [2, 2]
        assert xla.call_count == 3, f"at start {number}"


@pytest.mark.parametrize("source", ["a checkpoint", "random weights"])
def test_a_second_start_compiles_no_program_for_weights(source, tmp_path, no_cache_of_jax, xla):
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    specs = build_model(read_model_config(CONFIG), FLOAT32, "xla").param_specs

    def params(where: Placement):
        if source == "a checkpoint":
            return load_checkpoint(specs, checkpoint, placement=where, progress=False)
        return dummy_params(specs, 7, placement=where)

    expected = flatten(params(default_placement()))
    assert not xla.called
    for is_second in (False, True):
        xla.reset_mock()
        found = flatten(params(placement(tmp_path / "kept")))
        assert xla.called is not is_second
        for path, array in expected.items():
            np.testing.assert_array_equal(found[path], array)


@pytest.mark.parametrize("is_kept", [True, False])
def test_an_engine_calls_so_where_it_keeps_executables(is_kept, tmp_path, no_cache_of_jax, monkeypatch):
    called = []

    def recorded(self, function, *arguments, static=()):
        called.append(function.__name__)
        return kept_call(self, function, *arguments, static=static)

    kept_call = KeptCalls.__call__
    monkeypatch.setattr(KeptCalls, "__call__", recorded)
    directory = {"compilation_cache_dir": str(tmp_path)} if is_kept else {"compilation_cache": False}
    with tiny_llm(max_num_seqs=1, max_num_batched_tokens=16, **directory):
        assert {"zeros", "_write"} <= set(called) if is_kept else not called
