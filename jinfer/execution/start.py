"""The start of an executor: every step is compiled and runs once, so that no request waits for either."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from logging import getLogger

from jinfer.batching.batch import padding_batch
from jinfer.batching.buckets import Buckets
from jinfer.config import CompilerOptions, EngineLimits
from jinfer.execution.compiled_steps import abstract, compilation_for, compile_steps
from jinfer.execution.device_memory import delete_arrays
from jinfer.execution.device_state import DeviceState
from jinfer.execution.executor import Executor
from jinfer.execution.prefix_updates import PrefixUpdates
from jinfer.execution.split_programs import SplitPrograms
from jinfer.execution.split_steps import SplitSteps
from jinfer.models.model import Model
from jinfer.placement import Placement
from jinfer.progress import logged_time, progress_bar
from jinfer.weights.params import Params

logger = getLogger(__name__)


def start_executor(
    *,
    model: Model,
    params: Params,
    limits: EngineLimits,
    new_state: Callable[[], DeviceState],
    placement: Placement,
    compiler: CompilerOptions,
    has_prefix_updates: bool,
    progress: bool,
) -> Executor:
    """Compiles every step and runs each once. Only sequences that share pages need `has_prefix_updates`."""
    with ExitStack() as undo:
        state = new_state()
        undo.callback(delete_arrays, state)
        buckets = Buckets.for_limits(limits)
        with logged_time(logger, f"compiling {len(buckets.all)} steps"):
            executables = compile_steps(
                model,
                limits=limits,
                buckets=buckets,
                params=params,
                state=state,
                device=placement.device,
                compiler=compiler,
                progress=progress,
            )
            prefix_updates = (
                PrefixUpdates(limits=limits, state=state, compiler=compiler) if has_prefix_updates else None
            )
        programs = SplitPrograms(model, limits, buckets, abstract(params), abstract(state))
        executor = Executor(
            params=params,
            limits=limits,
            executables=executables,
            placement=placement,
            prefix_updates=prefix_updates,
            split_steps=SplitSteps(programs, compilation_for(compiler, placement.device), placement),
            state=state,
            new_state=new_state,
        )
        undo.callback(executor.close)
        with logged_time(logger, "warming up"):
            warm_up(executor, limits=limits, progress=progress)
        if compiler.compile_split_steps == "in_background":
            executor.split_steps.prepare("processed")
        if compiler.compile_split_steps == "at_start":
            with logged_time(logger, "compiling and warming up steps in two halves"):
                executor.split_steps.prepare(
                    "processed", num_threads=os.cpu_count(), progress=progress
                ).result()
                executor.state = executor.split_steps.warm_up(executor.params, executor.state)
        undo.pop_all()
        return executor


def warm_up(executor: Executor, *, limits: EngineLimits, progress: bool) -> None:
    """Runs every shape once on padding: first calls load code and build CUDA graphs."""
    shapes = executor.buckets.all
    with progress_bar("warming up", total=len(shapes), enabled=progress) as bar:
        for shape in shapes:
            executor.run(padding_batch(shape, limits)).token_ids.block_until_ready()
            bar.update()
    if executor.prefix_updates is not None:
        executor.state = executor.prefix_updates.warm_up(executor.state)
