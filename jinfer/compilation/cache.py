"""JAX's persistent compilation cache, for the time in which an engine compiles, and left as it was
afterwards.

An executable is found again by its program, its options, the device and the versions of JAX and XLA, so that
a second start of the same model compiles nothing. JAX has one cache in a process; jinfer may live in a user's
notebook, so it is switched on for the engine's own compilations only.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jinfer.errors import ConfigError

_lock = threading.Lock()  # engines that start at the same time in one process take turns: there is one cache
_OPTIONS: dict[str, Any] = {
    "jax_compilation_cache_dir": None,  # filled in
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


def cache_directory(device: jax.Device, *, is_enabled: bool, chosen: str | None) -> Path | None:
    """The directory of compiled programs: the `chosen` one, JAX's own, or the user's cache. None keeps
    nothing: the cache is off, or the device is a CPU and no directory is named.

    On a CPU an executable is bound to the machine's instruction set, and compiling takes seconds.
    """
    if not is_enabled:
        return None
    if chosen is not None:
        return Path(chosen).expanduser()
    chosen_for_jax = _configured("jax_compilation_cache_dir")  # JAX_COMPILATION_CACHE_DIR sets it as well
    if chosen_for_jax:
        return Path(chosen_for_jax)
    if device.platform != "gpu":
        return None
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jinfer" / "compiled"


@contextlib.contextmanager
def persistent_cache(directory: Path | None) -> Iterator[None]:
    """Compilations in this block, in any thread, are looked for and kept in `directory`. Raises ConfigError
    if it cannot be made. The directory's files are run as code: it is made readable and writable by its owner
    alone."""
    if directory is None:
        yield
        return
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"compilation_cache_dir={str(directory)!r} cannot be made ({error}); name another, or pass "
            "compilation_cache=False"
        ) from error
    with _lock:
        before = {name: _configured(name) for name in _OPTIONS}
        _configure({**_OPTIONS, "jax_compilation_cache_dir": str(directory)})
        try:
            yield
        finally:
            _configure(before)


def _configured(name: str) -> Any:
    return getattr(jax.config, name)


def _configure(options: dict[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # or the directory of the first compilation in the process would stay
