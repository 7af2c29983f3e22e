"""Executables that were compiled before, kept on disk: a second start of the same model compiles nothing.

JAX has a cache of its own, one in a process, whose directory is part of the process's configuration. jinfer
may live in a user's notebook, and may compile for minutes behind a running engine: it leaves that cache as it
is, and keeps its executables itself, each in a file whose name follows from the program, the options, the
device and the versions of JAX and XLA.
"""

import functools
import hashlib
import logging
import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jaxlib
from jax.experimental import serialize_executable

from jinfer.compilation.cache import write_whole
from jinfer.compilation.options import compiled
from jinfer.options import CompilerValue

logger = logging.getLogger(__name__)

COMPILED = "/jax/core/compile/backend_compile_duration"  # of JAX: compiled, or found in JAX's own cache
FOUND_BY_JAX = "/jax/compilation_cache/cache_hits"
OPTIONS_OF_JAX = ("jax_disable_most_optimizations", "jax_optimization_level", "jax_memory_fitting_level")
# What XLA times is kept as JAX would keep it: programs that share a GEMM share its algorithm.
TIMINGS = "xla_gpu_per_fusion_autotune_cache_dir"


def load_or_compile(
    lowered: jax.stages.Lowered,
    options: dict[str, CompilerValue] | None,
    directory: Path | None,
    device: jax.Device,
) -> jax.stages.Compiled:
    """The executable of a program for `device`, from `directory` or compiled and kept there. None keeps
    nothing. Raises ConfigError for an option that XLA refuses."""
    if directory is None:
        return compiled(lowered, options)
    path = directory / f"executable-{_key(lowered, options, device)}"
    found = _load(path, lowered, device)
    if found is not None:
        return found
    if device.platform == "gpu":
        options = {TIMINGS: str(directory / TIMINGS), **(options or {})}
    with _watched_compilation() as seen:
        executable = compiled(lowered, options)
    # A CPU's executable that was loaded cannot be saved again. Where JAX found one, JAX keeps it.
    if COMPILED in seen and FOUND_BY_JAX not in seen:
        _save(path, executable)
    return executable


def _load(path: Path, lowered: jax.stages.Lowered, device: jax.Device) -> jax.stages.Compiled | None:
    try:
        content = zlib.decompress(path.read_bytes())
        return serialize_executable.deserialize_and_load(
            content, lowered.in_tree, lowered.out_tree, device.client, [device]
        )
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file makes the reader raise
        logger.warning("%s cannot be read (%r): the program is compiled again", path, error)
        return None


def _save(path: Path, executable: jax.stages.Compiled) -> None:
    """Failing costs the next start its time, and this one nothing."""
    try:
        content, _, _ = serialize_executable.serialize(executable)
        write_whole(path, zlib.compress(content, level=1))
    except Exception as error:  # a full disk, or a program that JAX cannot serialize
        logger.warning("%s cannot be written (%r): the next start compiles the program again", path, error)


def _key(lowered: jax.stages.Lowered, options: dict[str, CompilerValue] | None, device: jax.Device) -> str:
    facts = (
        jax.__version__,
        jaxlib.__version__,
        device.platform,
        device.device_kind,
        device.client.platform_version,
        device.id,
        os.environ.get("XLA_FLAGS"),
        [getattr(jax.config, name, None) for name in OPTIONS_OF_JAX],
        sorted((options or {}).items()),
        lowered.as_text(),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


class _Watch(threading.local):
    """Names of the events that JAX reports in this thread; None while nobody wants them."""

    seen: set[str] | None = None


_watch = _Watch()


@contextmanager
def _watched_compilation() -> Iterator[set[str]]:
    """The names of the events that JAX reports in this thread within the block."""
    _listen()
    seen: set[str] = set()
    _watch.seen = seen
    try:
        yield seen
    finally:
        _watch.seen = None


@functools.cache
def _listen() -> None:
    """Begins to listen, and never ends: JAX's list of listeners is not to be changed while another thread
    goes through it."""

    def record(event: str, **_: str | int) -> None:
        if _watch.seen is not None:
            _watch.seen.add(event)

    def record_duration(event: str, duration_secs: float, **_: str | int) -> None:
        record(event)

    jax.monitoring.register_event_listener(record)
    jax.monitoring.register_event_duration_secs_listener(record_duration)
