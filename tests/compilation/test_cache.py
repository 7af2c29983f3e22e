"""The directory of compiled programs is the one that was chosen, JAX's own, or none."""

from pathlib import Path
from unittest.mock import Mock

import jax
import pytest

from jinfer import ConfigError
from jinfer.compilation.cache import cache_directory, executables_directory, make_directory


@pytest.fixture
def directory_of_jax():
    """Sets it in place of the tests' own."""
    before = jax.config.jax_compilation_cache_dir
    yield lambda directory: jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_cpu_keeps_nothing_unless_it_is_told_where(directory_of_jax, tmp_path):
    directory_of_jax(None)
    device = jax.devices("cpu")[0]
    assert cache_directory(device, is_enabled=True, chosen=None) is None
    assert cache_directory(device, is_enabled=True, chosen=str(tmp_path)) == tmp_path
    assert cache_directory(device, is_enabled=False, chosen=str(tmp_path)) is None


def test_executables_in_the_directory_of_jax_are_kept_by_jax(directory_of_jax, tmp_path, monkeypatch):
    directory_of_jax(str(tmp_path))
    assert cache_directory(jax.devices("cpu")[0], is_enabled=True, chosen=None) == tmp_path
    assert executables_directory(tmp_path) is None
    assert executables_directory(tmp_path / "another") == tmp_path / "another"
    assert executables_directory(None) is None
    disabled = Mock(jax_enable_compilation_cache=False, jax_compilation_cache_dir=str(tmp_path))
    monkeypatch.setattr(jax, "config", disabled)
    assert executables_directory(tmp_path) == tmp_path


def test_a_directory_is_its_owners_alone(tmp_path):
    make_directory(tmp_path / "steps")
    assert (tmp_path / "steps").stat().st_mode & 0o077 == 0, "its files are run as code"


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"compilation_cache_dir='.*file/steps' cannot be made"):
        make_directory(tmp_path / "file" / "steps")
