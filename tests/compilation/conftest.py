"""What tests of kept executables share."""

from collections.abc import Iterator
from unittest.mock import Mock

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jinfer.compilation import executables


@pytest.fixture
def no_cache_of_jax() -> Iterator[None]:
    """The tests' own is put aside: what it has would not be kept again."""
    before = jax.config.jax_compilation_cache_dir
    for directory in (None, before):
        jax.config.update("jax_compilation_cache_dir", directory)
        compilation_cache.reset_cache()
        if directory is None:
            yield


@pytest.fixture
def xla(monkeypatch) -> Mock:
    """The call of XLA, counted."""
    counted = Mock(side_effect=executables.compiled)
    monkeypatch.setattr(executables, "compiled", counted)
    return counted
