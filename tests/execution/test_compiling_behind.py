"""An engine that compiles behind its requests leaves the process to others meanwhile."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

from tests.tiny_model import tiny_llm

LONG_S = 300  # waited for only where a test fails
SETTINGS = [name for name in jax.config.values if "cache" in name]


class HeldCompilation:
    """The first program that is compiled after `begin`, held before XLA has it until `end`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._is_first = threading.Lock()
        self._released = threading.Event()
        self.is_held = threading.Event()

    def begin(self) -> None:
        compile_now = jax.stages.Lowered.compile

        def compile_later(lowered, *arguments, **options):
            if self._is_first.acquire(blocking=False):
                self.is_held.set()
                self._released.wait()
            return compile_now(lowered, *arguments, **options)

        self._monkeypatch.setattr(jax.stages.Lowered, "compile", compile_later)

    def end(self) -> None:
        self._released.set()


@pytest.fixture
def held(monkeypatch) -> Iterator[HeldCompilation]:
    held = HeldCompilation(monkeypatch)
    yield held
    held.end()


def settings_of_jax() -> dict[str, object]:
    return {name: getattr(jax.config, name) for name in SETTINGS}


def test_the_process_keeps_its_cache_meanwhile(tmp_path, held):
    before = settings_of_jax()
    with tiny_llm(compilation_cache_dir=str(tmp_path)) as llm:
        held.begin()
        prepared = llm.engine.executor.prepare("processed")
        assert held.is_held.wait(LONG_S)
        try:
            assert settings_of_jax() == before

            def users_own(x):
                return x * 3 + 1

            jax.jit(users_own)(jnp.ones(5))
            assert not list(tmp_path.glob("jit_users_own*"))
        finally:
            held.end()
        prepared.result()
    assert settings_of_jax() == before


def test_another_engine_starts_meanwhile(tmp_path, held):
    def start_another() -> list[int]:
        with tiny_llm(compilation_cache_dir=str(tmp_path / "another")) as another:
            return another.generate([[1, 2, 3]], temperature=0, max_tokens=2)[0].outputs[0].token_ids

    with tiny_llm(compilation_cache_dir=str(tmp_path / "first")) as llm, ThreadPoolExecutor(1) as thread:
        held.begin()
        prepared = llm.engine.executor.prepare("processed")
        assert held.is_held.wait(LONG_S)
        try:
            token_ids = thread.submit(start_another).result(LONG_S)
            assert not prepared.done()
        finally:
            held.end()
        prepared.result()
        assert llm.generate([[1, 2, 3]], temperature=0, max_tokens=2)[0].outputs[0].token_ids == token_ids


def test_closing_waits_for_no_program(held):
    """XLA cannot be interrupted: what it compiles is dropped when it is there."""
    with ThreadPoolExecutor(1) as thread:
        llm = tiny_llm()
        held.begin()
        executor = llm.engine.executor
        prepared = executor.prepare("processed")
        queued = executor.prepare("scored")
        assert held.is_held.wait(LONG_S)
        try:
            thread.submit(llm.close).result(LONG_S)
            assert not prepared.done()
        finally:
            held.end()
        with pytest.raises(CancelledError):
            prepared.result()
        with pytest.raises(CancelledError):
            queued.result()
        assert executor.split_steps._state is None
