"""Programs that are compiled ahead of time: each in a thread, and found again on disk at a later start."""

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from jinfer.compilation.cache import make_directory
from jinfer.compilation.executables import Executables, LowerableProgram
from jinfer.compilation.traced_programs import traced, with_tree
from jinfer.options import CompilerValue
from jinfer.progress import progress_bar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Program:
    """A function of pytrees, and the shapes that it is compiled for.

    `donated` are the positions of arguments whose memory the results take over. `facts` have a repr that
    tells the function from all others of these sources: all that it follows from besides its arguments. None
    where it follows from other sources too, so that its trace is not kept.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...]
    result_structure: jax.tree_util.PyTreeDef
    facts: Any

    def lower(self) -> jax.stages.Lowered:
        """Traces and lowers the program."""
        return jax.jit(self.function, donate_argnums=self.donated).lower(*self.arguments)

    def traced(self, directory: Path, device: jax.Device) -> LowerableProgram:
        """The program, whose trace is taken from `directory` or kept there."""
        leaves, structure = jax.tree.flatten(self.arguments)

        def flat_function(*arguments: Any) -> list[Any]:
            return jax.tree.leaves(self.function(*jax.tree.unflatten(structure, arguments)))

        shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
        exported = traced(flat_function, leaves, (self.facts, structure, shapes), directory, device)

        def lower() -> jax.stages.Lowered:
            function = with_tree(exported, self.result_structure)
            return jax.jit(function, donate_argnums=self.donated).lower(*self.arguments)

        return LowerableProgram(
            text=repr(self.donated).encode() + exported.mlir_module_serialized,
            lower=lower,
            in_tree=jax.tree.structure((self.arguments, {})),
            out_tree=self.result_structure,
        )


@dataclass(frozen=True)
class Compilation:
    """The way to compile programs for a device: XLA's options, and the directories, None where nothing is
    kept, of what was compiled and of what was traced. Raises ConfigError if one of them cannot be made."""

    device: jax.Device
    options: dict[str, CompilerValue] | None
    directory: Path | None
    traces_directory: Path | None

    def __post_init__(self) -> None:
        for directory in (self.directory, self.traces_directory):
            if directory is not None:
                make_directory(directory)

    @property
    def _executables(self) -> Executables:
        return Executables(self.directory, self.device, self.options)

    def trace(self, program: Program) -> LowerableProgram:
        """Traces a program, or takes its trace of an earlier start."""
        if self.traces_directory is None or program.facts is None:
            return LowerableProgram.of_lowered(program.lower())
        return program.traced(self.traces_directory, self.device)

    def compile(self, program: Program) -> jax.stages.Compiled:
        """Compiles one program, unless it is found in the directory."""
        return self._compile(self.trace(program))

    def compile_lowered(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        """Compiles what is lowered already, unless it is found in the directory."""
        return self._compile(LowerableProgram.of_lowered(lowered))

    def _compile(self, program: LowerableProgram) -> jax.stages.Compiled:
        return self._executables.find(program) or self._executables.compile(program, program.lower())

    def compile_all(
        self,
        programs: Mapping[Key, Program],
        *,
        num_threads: int | None = None,
        progress: bool,
        stop: threading.Event | None = None,
    ) -> Mapping[Key, jax.stages.Compiled]:
        """The executables of all programs, compiled in threads, of which the default is one a core, in the
        order in which they are given. Those for which the device has no memory meanwhile, on which XLA times
        what it chooses from, are compiled again one at a time. Raises CancelledError soon after `stop` is
        set."""
        tracing = threading.Lock()  # Python's own lock is shared: one is traced while others compile

        def compile_one(program: Program) -> jax.stages.Compiled:
            with tracing:
                _go_on_unless(stop)
                traced_program = self.trace(program)
            found = self._executables.find(traced_program)
            if found is not None:
                return found
            with tracing:
                _go_on_unless(stop)
                lowered = traced_program.lower()
            _go_on_unless(stop)
            return self._executables.compile(traced_program, lowered)

        executables: dict[Key, jax.stages.Compiled] = {}
        crowded_out: list[Key] = []
        with (
            ThreadPoolExecutor(max_workers=num_threads or os.cpu_count()) as pool,
            progress_bar("compiling", total=len(programs), enabled=progress) as bar,
        ):
            futures = {pool.submit(compile_one, program): key for key, program in programs.items()}
            try:
                for future in as_completed(futures):
                    if is_out_of_memory(future.exception()):
                        crowded_out.append(futures[future])
                        continue
                    executables[futures[future]] = future.result()
                    bar.update()
                for key in crowded_out:
                    executables[key] = compile_one(programs[key])
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return executables


def is_out_of_memory(error: BaseException | None) -> bool:
    """True for the error of a device that has not the memory for an array."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _go_on_unless(stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise CancelledError("the engine was closed")
