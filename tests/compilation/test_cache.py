"""A second start finds what the first one compiled, and JAX's own settings are as they were."""

from unittest.mock import Mock

import jax
import pytest

from jinfer import ConfigError
from jinfer.compilation.cache import cache_directory, persistent_cache
from jinfer.execution import compiled_steps
from tests.tiny_model import tiny_llm

HIT = "/jax/compilation_cache/cache_hits"
MISS = "/jax/compilation_cache/cache_misses"


@pytest.fixture
def events() -> list[str]:
    found: list[str] = []

    def record(name: str, **details) -> None:
        found.append(name)

    jax.monitoring.register_event_listener(record)
    yield found
    jax.monitoring.unregister_event_listener(record)


def test_a_second_start_traces_and_compiles_no_step(tmp_path, events, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    options = {
        "max_num_seqs": 1,
        "max_num_batched_tokens": 16,
        "compilation_cache_dir": str(tmp_path / "steps"),
    }
    outputs = []
    for is_second in (False, True):
        events.clear()
        jax.clear_caches()
        if is_second:
            monkeypatch.setattr(
                compiled_steps, "run_step", Mock(side_effect=AssertionError("it is traced again"))
            )
        with tiny_llm(**options) as llm:
            num_steps = len(llm.engine.executor.executables)
            outputs.append(llm.generate([[1, 2, 3]], temperature=0, max_tokens=5)[0].outputs[0].token_ids)
            address = llm.engine.executor.state.kv_cache[0].array.unsafe_buffer_pointer()
            llm.generate([[1, 2, 3]], temperature=0, max_tokens=5)
            assert llm.engine.executor.state.kv_cache[0].array.unsafe_buffer_pointer() == address, (
                "the cache is copied"
            )
    assert events.count(HIT) >= num_steps
    assert MISS not in events
    assert outputs[0] == outputs[1]
    assert (tmp_path / "steps").stat().st_mode & 0o077 == 0, "its files are run as code"
    assert jax.config.jax_compilation_cache_dir == before


@pytest.fixture
def no_cache_of_jax():
    """The tests' own is put aside."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_cpu_keeps_nothing_unless_it_is_told_where(no_cache_of_jax, tmp_path):
    device = jax.devices("cpu")[0]
    assert cache_directory(device, is_enabled=True, chosen=None) is None
    assert cache_directory(device, is_enabled=True, chosen=str(tmp_path)) == tmp_path
    assert cache_directory(device, is_enabled=False, chosen=str(tmp_path)) is None


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"compilation_cache_dir='.*file/steps' cannot be made"),
        persistent_cache(tmp_path / "file" / "steps"),
    ):
        pass
