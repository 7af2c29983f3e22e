"""The directory of what was compiled and traced, for the next start."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax

from jinfer.errors import ConfigError


def cache_directory(device: jax.Device, *, is_enabled: bool, chosen: str | None) -> Path | None:
    """The directory of compiled programs: the `chosen` one, JAX's own, or the user's cache. None keeps
    nothing: the cache is off, or the device is a CPU and no directory is named.

    On a CPU an executable is bound to the machine's instruction set, and compiling takes seconds.
    """
    if not is_enabled:
        return None
    if chosen is not None:
        return Path(chosen).expanduser()
    if chosen_for_jax := _directory_of_jax():
        return Path(chosen_for_jax)
    if device.platform != "gpu":
        return None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jinfer" / "compiled"


def executables_directory(directory: Path | None) -> Path | None:
    """The directory in which jinfer itself keeps executables: `directory`, but None where JAX keeps them
    there."""
    if directory is None or not _configured("jax_enable_compilation_cache"):
        return directory
    chosen_for_jax = _directory_of_jax()
    return None if chosen_for_jax and Path(chosen_for_jax) == directory else directory


def make_directory(directory: Path) -> None:
    """Makes the directory unless it is there. Its files are run as code: it is readable and writable by its
    owner alone. Raises ConfigError if it cannot be made."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"compilation_cache_dir={str(directory)!r} cannot be made ({error}); name another, or pass "
            "compilation_cache=False"
        ) from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file all at once: a start that reads it meanwhile sees all of it or nothing. Raises OSError,
    and leaves nothing behind."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _directory_of_jax() -> str | None:
    return _configured("jax_compilation_cache_dir")  # JAX_COMPILATION_CACHE_DIR sets it as well


def _configured(name: str) -> Any:
    return getattr(jax.config, name)
