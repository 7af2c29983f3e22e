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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import jaxlib
from jax.experimental import serialize_executable
from jax.tree_util import PyTreeDef

from jinfer.compilation.cache import write_whole
from jinfer.compilation.options import compiled
from jinfer.options import CompilerValue

logger = logging.getLogger(__name__)

COMPILED = "/jax/core/compile/backend_compile_duration"  # of JAX: compiled, or found in JAX's own cache
FOUND_BY_JAX = "/jax/compilation_cache/cache_hits"
OPTIONS_OF_JAX = ("jax_disable_most_optimizations", "jax_optimization_level", "jax_memory_fitting_level")
# What XLA times is kept as JAX would keep it: programs that share a GEMM share its algorithm.
TIMINGS = "xla_gpu_per_fusion_autotune_cache_dir"


@dataclass(frozen=True)
class LowerableProgram:
    """A program before it is lowered. `text` tells it from all others; lowering takes Python tens of
    milliseconds, and is not needed where the executable is found."""

    text: str | bytes
    lower: Callable[[], jax.stages.Lowered]
    in_tree: PyTreeDef
    out_tree: PyTreeDef

    @classmethod
    def of_lowered(cls, lowered: jax.stages.Lowered) -> "LowerableProgram":
        """The program of what is lowered already."""
        return cls(lowered.as_text(), lambda: lowered, lowered.in_tree, lowered.out_tree)


@dataclass(frozen=True)
class Executables:
    """The executables of one device and of some options of XLA, in a directory; None keeps nothing."""

    directory: Path | None
    device: jax.Device
    options: dict[str, CompilerValue] | None

    def find(self, program: LowerableProgram) -> jax.stages.Compiled | None:
        """The executable that an earlier start has left; None where there is none that can be used."""
        if self.directory is None:
            return None
        path = self._path(self.directory, program)
        try:
            return serialize_executable.deserialize_and_load(
                zlib.decompress(path.read_bytes()),
                program.in_tree,
                program.out_tree,
                self.device.client,
                [self.device],
            )
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged file makes the reader raise
            logger.warning("%s cannot be read (%r): the program is compiled again", path, error)
            return None

    def compile(self, program: LowerableProgram, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compiles the program, which was lowered, and keeps the executable. Raises ConfigError for an option
        that XLA refuses."""
        if self.directory is None:
            return compiled(lowered, self.options)
        timings = {TIMINGS: str(self.directory / TIMINGS)} if self.device.platform == "gpu" else {}
        with _watched_compilation() as seen:
            executable = compiled(lowered, {**timings, **(self.options or {})} or None)
        # A CPU's executable that was loaded cannot be saved again. Where JAX found one, JAX keeps it.
        if COMPILED in seen and FOUND_BY_JAX not in seen:
            _save(self._path(self.directory, program), executable)
        return executable

    def _path(self, directory: Path, program: LowerableProgram) -> Path:
        facts = (
            jax.__version__,
            jaxlib.__version__,
            self.device.platform,
            self.device.device_kind,
            self.device.client.platform_version,
            self.device.id,
            os.environ.get("XLA_FLAGS"),
            [getattr(jax.config, name, None) for name in OPTIONS_OF_JAX],
            sorted((self.options or {}).items()),
            program.text,
        )
        return directory / f"executable-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"


def _save(path: Path, executable: jax.stages.Compiled) -> None:
    """Failing costs the next start its time, and this one nothing."""
    try:
        content, _, _ = serialize_executable.serialize(executable)
        write_whole(path, zlib.compress(content, level=1))
    except Exception as error:  # a full disk, or a program that JAX cannot serialize
        logger.warning("%s cannot be written (%r): the next start compiles the program again", path, error)


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
