"""The command line in this process, with the tiny model."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jinfer import LLM, EngineConfig, cli
from tests.end_to_end.cli.helpers import ENGINE, Finished


@pytest.fixture
def run(capsys) -> Callable[..., Finished]:
    """Runs a command."""

    def run(*arguments: str | Path) -> Finished:
        status = cli.main([str(argument) for argument in arguments])
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def start(run, directory) -> Callable[..., Finished]:
    """`jinfer generate`, which starts an engine and closes it."""
    return lambda *arguments: run("generate", "--model", directory, *ENGINE, *arguments)


@pytest.fixture
def lend(monkeypatch) -> Callable[[LLM], None]:
    """Gives `jinfer generate` an LLM that runs already, for a start takes longer than what tests ask of it.
    The command must have chosen the options that the LLM has."""

    def lend(llm: LLM) -> None:
        def lent(model: Any, **options: Any) -> contextlib.nullcontext[LLM]:
            assert EngineConfig.from_options({**options, "progress": False}) == llm.config
            return contextlib.nullcontext(llm)

        monkeypatch.setattr("jinfer.cli.generate.LLM", lent)

    return lend


@pytest.fixture
def generate(start, lend, llm) -> Callable[..., Finished]:
    """`jinfer generate` with the LLM that the tests share, which it must leave idle."""
    lend(llm)
    return start
