"""One engine for all tests in a process: its start takes as long as most of them together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from jinfer import LLM
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.weights.safetensors import load_checkpoint
from tests.checkpoints import (
    CONFIG,
    TINY_ENGINE,
    write_checkpoint,
)
from tests.end_to_end.llm.helpers import is_idle


@pytest.fixture(scope="session")
def directory(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared_llm(directory) -> Iterator[LLM]:
    with LLM(directory, **TINY_ENGINE) as llm:
        yield llm


@pytest.fixture
def llm(shared_llm) -> Iterator[LLM]:
    """The LLM that the tests share, which each must leave idle and whole."""
    yield shared_llm
    assert is_idle(shared_llm)
    shared_llm.check_integrity()


@pytest.fixture(scope="session")
def params(directory) -> dict[str, Any]:
    """The weights of the shared LLM, as a caller's own."""
    model = build_model(read_model_config(CONFIG), jnp.dtype("float32"), "xla")
    return load_checkpoint(model.param_specs, directory, placement=default_placement(), progress=False)
