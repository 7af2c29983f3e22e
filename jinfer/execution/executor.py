"""The device side of an engine: takes plans, owns all that is on the device, and gives back host data."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from jinfer.batching.batch import Batch, make_batch
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.config import EngineLimits
from jinfer.engine.split_plan import SplitKind, StepMasks
from jinfer.engine.steps import StepOutput, TokenLogprobs
from jinfer.execution.device_memory import delete_arrays
from jinfer.execution.device_state import DeviceState
from jinfer.execution.input_cache import InputCache
from jinfer.execution.prefix_updates import PrefixUpdates
from jinfer.execution.split_steps import SplitStep, SplitSteps, prompt_scores, token_logprobs
from jinfer.placement import Placement
from jinfer.sampling.sampler import NOT_FINITE, StepResult
from jinfer.scheduling.step_plan import StepPlan
from jinfer.weights.params import Params


class Executor:
    """Runs plans on the device. A handle of a step is its StepResult, whose arrays are on the device, or a
    SplitStep.

    `state` is donated to every step and replaced by what the step returns. `params` are read by every step.
    `executables` are the compiled steps of all shapes (compiled_steps.py).
    """

    def __init__(
        self,
        *,
        params: Params,
        limits: EngineLimits,
        executables: Mapping[StepShape, Any],
        placement: Placement,
        prefix_updates: PrefixUpdates | None,
        split_steps: SplitSteps,
        state: DeviceState,
        new_state: Callable[[], DeviceState],
    ) -> None:
        """`new_state` makes an empty state, which replaces `state` after a fault."""
        self.params = params
        self.state = state
        self.executables = executables
        self.buckets = Buckets.for_limits(limits)
        self._limits = limits
        self._input_cache = InputCache(placement)
        self.prefix_updates = prefix_updates
        self.split_steps = split_steps
        self._new_state = new_state

    def dispatch(self, plan: StepPlan) -> StepResult:
        """Starts a step and the copy of its tokens to the host, and returns at once."""
        self._join_prefixes(plan)
        result = self.run(self.make_batch(plan))
        result.token_ids.copy_to_host_async()
        if result.expert_ids is not None:
            result.expert_ids.copy_to_host_async()
        return result

    def _join_prefixes(self, plan: StepPlan) -> None:
        if self.prefix_updates is not None:
            self.state = self.prefix_updates(self.state, plan)

    def prepare(self, kind: SplitKind) -> Future[None]:
        """Makes steps in two halves of a kind possible, if need be in a thread."""
        return self.split_steps.prepare(kind)

    def begin(self, plan: StepPlan) -> SplitStep:
        """Starts the first half of a step, and returns at once."""
        self._join_prefixes(plan)
        batch = self.make_batch(plan)
        self.state, step = self.split_steps.begin(
            self.params, self.state, plan, batch, packed=self._input(batch)
        )
        return step

    def new_masks(self, num_rows: int) -> np.ndarray:
        """uint32 [num_rows, words], to be filled for `choose`."""
        return self.split_steps.new_masks(num_rows)

    def choose(self, handle: SplitStep, masks: StepMasks | None) -> None:
        """Starts the second half of a step, and the copy of its tokens to the host."""
        self.state = self.split_steps.choose(self.state, handle, masks)

    def make_batch(self, plan: StepPlan) -> Batch:
        """The plan as arrays, padded to a compiled shape."""
        return make_batch(plan, buckets=self.buckets, limits=self._limits)

    def run(self, batch: Batch) -> StepResult:
        """Starts the step of a batch."""
        step = self.executables[batch.shape]
        self.state, result = step(self.params, self.state, self._input(batch))
        return result

    def _input(self, batch: Batch) -> np.ndarray | jax.Array:
        """The packed batch, on the device where it is there already: those of decode steps are equal while
        no row joins, leaves or begins a page."""
        return self._input_cache(batch.shape, batch.packed) if batch.shape.is_decode else batch.packed

    def read(self, handle: StepResult | SplitStep, logprob_rows: Sequence[int]) -> StepOutput:
        """Waits for a step. Log probabilities come to the host for `logprob_rows` only."""
        result = handle.result if isinstance(handle, SplitStep) else handle
        assert result is not None, "its tokens are not chosen yet"
        began = time.perf_counter()
        token_ids = np.asarray(result.token_ids).tolist()
        wait_s = time.perf_counter() - began
        if NOT_FINITE in token_ids:
            token_ids = [None if token_id == NOT_FINITE else token_id for token_id in token_ids]
        logprobs = _logprobs(result, logprob_rows) if logprob_rows else {}
        scores = prompt_scores(handle) if isinstance(handle, SplitStep) else ()
        expert_ids = None if result.expert_ids is None else np.asarray(result.expert_ids)
        return StepOutput(token_ids, logprobs, wait_s, scores, expert_ids)

    def reset(self) -> None:
        """Begins with an empty state. It may be interrupted, and done again."""
        delete_arrays(self.state)
        self.state = self._new_state()
        self.split_steps.reset()

    def close(self) -> None:
        """Gives back the memory of the state, not that of the params. The executor cannot be used
        afterwards."""
        delete_arrays(self.state)
        self.split_steps.close()
        self._input_cache.clear()


def _logprobs(result: StepResult, rows: Iterable[int]) -> dict[int, TokenLogprobs]:
    """The arrays come to the host whole: indexing on the device would compile."""
    arrays: Any = result.logprobs, result.top_token_ids, result.top_logprobs
    return token_logprobs(map(np.asarray, arrays), rows)
