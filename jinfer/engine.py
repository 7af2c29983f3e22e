"""The engine: requests go in, and each step brings their sequences forward. `Engine.step` is the order of work."""

import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np

from jinfer.batching.batch import make_batch, padding_batch
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.sampling_words import NO_TOKEN
from jinfer.config import EngineConfig, Limits
from jinfer.engine_stats import Counters, EngineStats
from jinfer.execution.compiled_steps import CompiledSteps
from jinfer.execution.device_state import DeviceState
from jinfer.execution.page_sharing import PageSharing
from jinfer.models.model import Model, Params
from jinfer.progress import logged_time, progress_bar
from jinfer.request import FinishReason, Request, Sequence
from jinfer.sampling import StepResult
from jinfer.scheduling.scheduler import Scheduler
from jinfer.scheduling.step_plan import StepPlan
from jinfer.sequence_update import SequenceUpdate, accept

logger = logging.getLogger(__name__)

# A host that waits for the device for less than this is what a small model's steps of a few rows wait for: one late
# dispatch, and the device is idle. A second step in flight makes up for it. Everybody else keeps one: with two, whoever
# joins waits for a step more.
SHORT_WAIT_S = 0.25e-3


@dataclass(frozen=True)
class StepInFlight:
    """A step that was dispatched and not read yet."""

    plan: StepPlan
    result: StepResult


class Engine:
    """Runs requests by continuous batching. Not safe for use by several threads at a time; `LLM` takes care of that."""

    def __init__(
        self, model: Model, params: Params, limits: Limits, new_state: Callable[[], DeviceState], config: EngineConfig
    ) -> None:
        """`new_state` makes an empty device state, at the start and after a fault."""
        self.limits = limits
        self._config = config
        self._rope = model.config.rope
        self._params = params
        self._new_state = new_state
        self._state = new_state()
        self._buckets = Buckets.for_limits(limits)
        self._counters = Counters()
        self._scheduler = self._new_scheduler()
        try:
            with logged_time(logger, f"compiling {len(self._buckets.all)} steps"):
                self._steps = CompiledSteps(model, limits, self._buckets, params, self._state, config)
                self._page_sharing = PageSharing(limits, self._state, config) if config.prefix_caching else None
            with logged_time(logger, "warming up"):
                self._warm_up(config.progress)
        except BaseException:
            delete_arrays(self._state)
            raise
        self._sequences: set[Sequence] = set()  # accepted and not ended
        self._in_flight: deque[StepInFlight] = deque()  # oldest first
        self._last_wait_s = math.inf  # of the host for the device, when it last read a step

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(
            self.limits,
            self._counters,
            self._config.scheduling_policy,
            prefix_caching=self._config.prefix_caching,
            rotation_class=self._rope.rotation_class,
        )

    def _warm_up(self, progress: bool) -> None:
        """Runs every shape once on padding: first calls load code and build CUDA graphs, and no request should wait."""
        with progress_bar("warming up", total=len(self._buckets.all), enabled=progress) as bar:
            for shape in self._buckets.all:
                self._state, result = self._steps(self._params, self._state, padding_batch(shape, self.limits))
                result.token_ids.block_until_ready()
                bar.update()
        if self._page_sharing:
            self._state = self._page_sharing.warm_up(self._state)

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def stats(self) -> EngineStats:
        """What the engine is doing, and what it has done since its start."""
        scheduler, pool = self._scheduler, self._scheduler.page_pool
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_used_pages=pool.num_used,
            num_cached_pages=pool.num_cached,
            num_free_pages=pool.num_free,
            **dataclasses.asdict(self._counters),
        )

    @property
    def executables(self) -> Mapping[StepShape, jax.stages.Compiled]:
        return self._steps.executables

    def add(self, request: Request) -> None:
        """Accepts a validated request: from here on it ends, in one way or another."""
        for sequence in request.sequences:
            self._sequences.add(sequence)
            self._scheduler.add(sequence)

    def abort(self, request: Request) -> None:
        """Ends what of the request still runs and frees its pages."""
        for sequence in request.sequences:
            if sequence in self._sequences:
                self._end(sequence, FinishReason.ABORT)

    def step(self) -> list[SequenceUpdate]:
        """Plans and dispatches one step, then reads the step before it while the device computes.

        Without `overlap` it reads the step that it dispatched, and the device waits for the host in between. After
        whatever is raised here, an interrupt too, the engine needs a `reset`.
        """
        updates = []
        plan = self._scheduler.schedule()
        if plan:
            self._in_flight.append(self._dispatch(plan))
        num_left = self._num_unread() if plan else len(self._in_flight) - 1
        while len(self._in_flight) > max(0, num_left):
            updates += self._read(self._in_flight.popleft())
        return updates

    def _num_unread(self) -> int:
        """How many steps stay in flight while the next is planned."""
        if not self._config.overlap:
            return 0
        return 2 if self._last_wait_s < SHORT_WAIT_S else 1

    def _dispatch(self, plan: StepPlan) -> StepInFlight:
        if self._page_sharing:
            self._state = self._page_sharing(self._state, plan)
        batch = make_batch(plan, self._buckets, self.limits)
        self._state, result = self._steps(self._params, self._state, batch)
        result.token_ids.copy_to_host_async()
        return StepInFlight(plan, result)

    def _read(self, step: StepInFlight) -> list[SequenceUpdate]:
        """Waits for a step and gives each sampled token to its sequence, unless that ended in the meantime."""
        began = time.perf_counter()
        token_ids = np.asarray(step.result.token_ids).tolist()
        self._last_wait_s = time.perf_counter() - began
        updates = []
        for place, sequence in enumerate(step.plan.sampling_sequences):
            if sequence is None:
                continue
            sequence.num_pending_tokens -= 1
            if sequence.finish_reason is not None:
                continue
            if token_ids[place] == NO_TOKEN:
                updates.append(self._fail(sequence))
            else:
                updates.append(self._accept(sequence, step, place, token_ids[place]))
        return updates

    def _accept(self, sequence: Sequence, step: StepInFlight, place: int, token_id: int) -> SequenceUpdate:
        """Appends a token, and ends the sequence if it is the last."""
        if sequence.request.first_token_time is None:
            sequence.request.first_token_time = time.perf_counter()
        if sequence.request.params.logprobs is not None:
            _record_logprobs(sequence, step.result, place)
        self._counters.num_generated_tokens += 1
        update = accept(sequence, token_id)
        if update.finish_reason is not None:
            self._end(sequence, update.finish_reason)
        return update

    def _fail(self, sequence: Sequence) -> SequenceUpdate:
        sequence.error = "the model gave logits that are not finite (NaN or infinity)"
        self._end(sequence, FinishReason.ERROR)
        return SequenceUpdate(sequence, None, None, FinishReason.ERROR)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self._sequences.discard(sequence)
        self._scheduler.remove(sequence)
        if sequence.request.is_finished:
            sequence.request.finished_time = time.perf_counter()

    def reset(self, reason: str) -> None:
        """Ends all requests with an error, and begins anew: after a fault within a step nothing on the device can be
        trusted, nor what was planned. It may be interrupted, and done again."""
        for sequence in self._sequences:
            sequence.error, sequence.finish_reason = reason, FinishReason.ERROR
            sequence.request.finished_time = time.perf_counter()
        self._scheduler = self._new_scheduler()
        self._in_flight.clear()
        delete_arrays(self._state)
        self._state = self._new_state()
        self._sequences.clear()

    def check_integrity(self) -> None:
        """Raises AssertionError unless pages and rows each have exactly one place, and an idle engine holds none."""
        self._scheduler.check_integrity()
        if not self.has_work:
            assert self._scheduler.page_pool.num_used == 0, "pages are used though nothing runs"

    def close(self) -> None:
        """Gives back the memory of the device state. The engine cannot be used afterwards."""
        delete_arrays(self._state)
        self._steps.close()
        self._in_flight.clear()

    def __repr__(self) -> str:
        return f"Engine(running={self._scheduler.num_running}, waiting={self._scheduler.num_waiting}, {self.limits})"


def delete_arrays(tree) -> None:
    """Frees the device memory of every array in a pytree now, whoever still refers to them."""
    for leaf in jax.tree.leaves(tree):
        if not leaf.is_deleted():
            leaf.delete()


def _record_logprobs(sequence: Sequence, result: StepResult, row: int) -> None:
    """Keeps the sampled token's log probability and those of the `params.logprobs` most likely tokens."""
    count = sequence.params.logprobs
    token_ids, logprobs, top_ids, top = (  # as numpy: indexing on the device would compile
        np.asarray(array)[row]
        for array in (result.token_ids, result.logprobs, result.top_token_ids, result.top_logprobs)
    )
    entry = dict(zip(top_ids[:count].tolist(), top[:count].tolist(), strict=True))
    sequence.logprobs.append({**entry, int(token_ids): float(logprobs)})
    sequence.cumulative_logprob += float(logprobs)
