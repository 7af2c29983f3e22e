"""A second start finds what the first one compiled, and what cannot be used is compiled again."""

from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from jinfer.compilation import program
from jinfer.compilation.program import Compilation
from jinfer.execution import compiled_steps
from tests.tiny_model import tiny_llm

DEVICE = jax.devices()[0]
X = jnp.arange(64.0).reshape(8, 8)


def load_or_compile(directory: Path, *, factor: float = 2.0, options: dict | None = None):
    """An executable of a program that needs more than one function of XLA."""
    return Compilation(DEVICE, options, directory, traces_directory=None).compile_lowered(lowered(factor))


def lowered(factor: float) -> jax.stages.Lowered:
    jax.clear_caches()
    return jax.jit(lambda x: {"sorted": jnp.sort(x * factor), "order": jnp.argsort(x)}).lower(X)


def assert_right(executable: jax.stages.Compiled, factor: float = 2.0) -> None:
    result = executable(X)
    assert result["sorted"].tolist() == (X * factor).tolist()
    assert result["order"].tolist() == [list(range(8))] * 8


def test_a_second_start_traces_lowers_and_compiles_no_step(tmp_path, no_cache_of_jax, xla, monkeypatch):
    outputs = []
    for is_second in (False, True):
        xla.reset_mock()
        jax.clear_caches()
        if is_second:
            traced_again = Mock(side_effect=AssertionError("it is traced again"))
            monkeypatch.setattr(compiled_steps, "run_step", traced_again)
            lowered_again = Mock(side_effect=AssertionError("it is lowered again"))
            monkeypatch.setattr(program, "with_tree", lowered_again)
        with tiny_llm(
            max_num_seqs=1, max_num_batched_tokens=16, compilation_cache_dir=str(tmp_path / "steps")
        ) as llm:
            num_steps = len(llm.engine.executor.executables)
            outputs.append(llm.generate([[1, 2, 3]], temperature=0, max_tokens=5)[0].outputs[0].token_ids)
            address = llm.engine.executor.state.kv_cache[0].array.unsafe_buffer_pointer()
            llm.generate([[1, 2, 3]], temperature=0, max_tokens=5)
            assert llm.engine.executor.state.kv_cache[0].array.unsafe_buffer_pointer() == address, (
                "the cache is copied"
            )
        assert xla.call_count >= num_steps if not is_second else not xla.called
    assert outputs[0] == outputs[1]


def test_another_program_and_other_options_have_other_executables(tmp_path, no_cache_of_jax, xla):
    load_or_compile(tmp_path)
    assert_right(load_or_compile(tmp_path, factor=3.0), factor=3.0)
    load_or_compile(tmp_path, options={"xla_cpu_enable_fast_math": False})
    assert xla.call_count == len(list(tmp_path.glob("executable-*"))) == 3
    assert_right(load_or_compile(tmp_path))
    assert xla.call_count == 3


def test_what_jax_found_in_its_own_cache_is_not_kept_again(tmp_path, no_cache_of_jax):
    """XLA writes an executable of a CPU that was loaded without what it needs to run."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    compilation_cache.reset_cache()
    for name in ("first", "second", "second"):
        (tmp_path / name).mkdir(exist_ok=True)
        assert_right(load_or_compile(tmp_path / name))
    assert len(list((tmp_path / "first").iterdir())) == 1
    assert not list((tmp_path / "second").iterdir())


def test_a_damaged_executable_is_compiled_again(tmp_path, no_cache_of_jax, xla, caplog):
    load_or_compile(tmp_path)
    (file,) = tmp_path.glob("executable-*")
    file.write_bytes(file.read_bytes()[:100])
    assert_right(load_or_compile(tmp_path))
    assert "compiled again" in caplog.text
    assert_right(load_or_compile(tmp_path))
    assert xla.call_count == 2


def test_a_directory_that_cannot_be_written_costs_the_next_start(tmp_path, no_cache_of_jax, caplog):
    compilation = Compilation(DEVICE, None, tmp_path / "removed", traces_directory=None)
    (tmp_path / "removed").rmdir()
    assert_right(compilation.compile_lowered(lowered(2.0)))
    assert "the next start compiles the program again" in caplog.text
