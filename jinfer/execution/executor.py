"""The device side of an engine: takes plans, owns all that is on the device, and gives back host data."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from logging import getLogger
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jinfer.batching.batch import Batch, make_batch, padding_batch
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.config import CompilerOptions, Limits
from jinfer.engine.step_output import StepOutput, TokenLogprobs
from jinfer.execution.compiled_steps import CompiledSteps
from jinfer.execution.device_memory import delete_arrays
from jinfer.execution.device_state import DeviceState
from jinfer.execution.prefix_updates import PrefixUpdates
from jinfer.models.model import Model
from jinfer.placement import Placement
from jinfer.progress import logged_time, progress_bar
from jinfer.sampling import NOT_FINITE, StepResult
from jinfer.scheduling.step_plan import StepPlan
from jinfer.weights.params import Params

logger = getLogger(__name__)


@runtime_checkable
class Steps(Protocol):
    """The executable of every shape; see CompiledSteps."""

    def __call__(
        self, params: Params, state: DeviceState, batch: Batch
    ) -> tuple[DeviceState, StepResult]: ...

    @property
    def executables(self) -> Mapping[StepShape, jax.stages.Compiled]: ...

    def close(self) -> None: ...


class Executor:
    """Runs plans on the device. A handle of a step is its StepResult, whose arrays are on the device.

    `state` is donated to every step and replaced by what the step returns. `params` are read by every step.
    """

    def __init__(
        self,
        *,
        params: Params,
        limits: Limits,
        steps: Steps,
        prefix_updates: PrefixUpdates | None,
        state: DeviceState,
        new_state: Callable[[], DeviceState],
    ) -> None:
        """`new_state` makes an empty state, which replaces `state` after a fault."""
        self.params = params
        self.state = state
        self.buckets = Buckets.for_limits(limits)
        self._limits = limits
        self._steps = steps
        self._prefix_updates = prefix_updates
        self._new_state = new_state

    @property
    def executables(self) -> Mapping[StepShape, jax.stages.Compiled]:
        """The compiled step of each shape."""
        return self._steps.executables

    def dispatch(self, plan: StepPlan) -> StepResult:
        """Starts a step and the copy of its tokens to the host, and returns at once."""
        if self._prefix_updates is not None:
            self.state = self._prefix_updates(self.state, plan)
        result = self.run(self.make_batch(plan))
        result.token_ids.copy_to_host_async()
        return result

    def make_batch(self, plan: StepPlan) -> Batch:
        """The plan as arrays, padded to a compiled shape."""
        return make_batch(plan, self.buckets, self._limits)

    def run(self, batch: Batch) -> StepResult:
        """Starts the step of a batch."""
        self.state, result = self._steps(self.params, self.state, batch)
        return result

    def read(self, handle: StepResult, logprob_rows: Sequence[int]) -> StepOutput:
        """Waits for a step. Log probabilities come to the host for `logprob_rows` only."""
        began = time.perf_counter()
        token_ids = np.asarray(handle.token_ids).tolist()
        wait_s = time.perf_counter() - began
        if NOT_FINITE in token_ids:
            token_ids = [None if token_id == NOT_FINITE else token_id for token_id in token_ids]
        return StepOutput(token_ids, _logprobs(handle, logprob_rows) if logprob_rows else {}, wait_s)

    def warm_up(self, *, progress: bool) -> None:
        """Runs every shape once on padding: first calls load code and build CUDA graphs, and no request
        should wait."""
        with progress_bar("warming up", total=len(self.buckets.all), enabled=progress) as bar:
            for shape in self.buckets.all:
                self.run(padding_batch(shape, self._limits)).token_ids.block_until_ready()
                bar.update()
        if self._prefix_updates is not None:
            self.state = self._prefix_updates.warm_up(self.state)

    def reset(self) -> None:
        """Begins with an empty state. It may be interrupted, and done again."""
        delete_arrays(self.state)
        self.state = self._new_state()

    def close(self) -> None:
        """Gives back the memory of the state, not that of the params. The executor cannot be used
        afterwards."""
        delete_arrays(self.state)
        self._steps.close()


def start_executor(
    *,
    model: Model,
    params: Params,
    limits: Limits,
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
            steps = CompiledSteps(
                model,
                limits,
                buckets,
                params,
                state,
                placement=placement,
                compiler=compiler,
                progress=progress,
            )
            prefix_updates = PrefixUpdates(limits, state, compiler) if has_prefix_updates else None
        executor = Executor(
            params=params,
            limits=limits,
            steps=steps,
            prefix_updates=prefix_updates,
            state=state,
            new_state=new_state,
        )
        undo.callback(executor.close)
        with logged_time(logger, "warming up"):
            executor.warm_up(progress=progress)
        undo.pop_all()
        return executor


def _logprobs(result: StepResult, rows: Iterable[int]) -> dict[int, TokenLogprobs]:
    """The arrays come to the host whole: indexing on the device would compile."""
    arrays: Any = result.logprobs, result.top_token_ids, result.top_logprobs
    logprobs, top_token_ids, top_logprobs = map(np.asarray, arrays)
    return {
        row: TokenLogprobs(
            logprob=float(logprobs[row]),
            top_token_ids=top_token_ids[row].tolist(),
            top_logprobs=top_logprobs[row].tolist(),
        )
        for row in rows
    }
