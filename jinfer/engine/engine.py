"""The engine: requests go in, and each step brings their sequences forward. `Engine.step` is the order of
work."""

import dataclasses
import time
from collections.abc import Iterable

from jinfer.config import EngineLimits
from jinfer.engine.logprobs import record_logprobs, record_scores
from jinfer.engine.masks import accept, fill, masked_rows
from jinfer.engine.routed_experts import count_experts, record_experts
from jinfer.engine.split_plan import SplitExecutor, is_split, split_kinds
from jinfer.engine.stats import EngineStats
from jinfer.engine.steps import StepInFlight, StepQueue, one_at_a_time, overlapped
from jinfer.engine.waiting_room import WaitingRoom
from jinfer.errors import EngineError, JinferError, RequestError
from jinfer.requests.request import ExpertIds, FinishReason, Request, Sequence, SequenceOutput, append_token
from jinfer.scheduling.scheduler import Scheduler
from jinfer.scheduling.step_plan import StepPlan

NOT_FINITE = "the model gave logits that are not finite (NaN or infinity)"


class Engine:
    """Runs requests by continuous batching. Not safe for use by several threads at a time; `EngineLoop`
    is."""

    def __init__(self, scheduler: Scheduler, executor: SplitExecutor, *, overlap: bool = True) -> None:
        """`overlap` plans and dispatches a step before the last one is read."""
        self.scheduler = scheduler
        self.executor = executor
        self._counters = scheduler.counters
        self.in_flight = StepQueue(overlapped if overlap else one_at_a_time)
        self._sequences: set[Sequence] = set()  # accepted and not ended
        self._logprob_sequences: set[Sequence] = set()  # those of them that want log probabilities
        self._split_sequences: set[Sequence] = set()  # those that fused steps do not serve
        self._waiting_room = WaitingRoom()  # some of these, while what they need is made

    @property
    def limits(self) -> EngineLimits:
        return self.scheduler.limits

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def stats(self) -> EngineStats:
        """The present state of the engine, and its counters since the start."""
        scheduler = self.scheduler
        pool = scheduler.page_pool
        counters = dataclasses.asdict(scheduler.counters)
        expert_tokens = counters.pop("expert_tokens")
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting + len(self._waiting_room),
            num_used_pages=pool.num_used,
            num_cached_pages=pool.num_cached,
            num_free_pages=pool.num_free,
            **counters,
            expert_tokens=None if expert_tokens is None else expert_tokens.tolist(),
        )

    def add(self, request: Request) -> None:
        """Accepts a validated request: from here on it ends, in one way or another."""
        if request.params.prompt_logprobs is not None:
            request.prompt_logprobs = [None] * len(request.prompt_token_ids)
        for sequence in request.sequences:
            self._sequences.add(sequence)
            if request.params.logprobs is not None:
                self._logprob_sequences.add(sequence)
            if kinds := split_kinds(request):
                self._split_sequences.add(sequence)
                self._waiting_room.add(sequence, [self.executor.prepare(kind) for kind in kinds])
            else:
                self.scheduler.add(sequence)

    def abort(self, sequences: Iterable[Sequence]) -> None:
        """Ends those of the sequences that still run and frees their pages."""
        for sequence in sequences:
            if sequence in self._sequences:
                self._end(sequence, FinishReason.ABORT)

    def step(self) -> list[SequenceOutput]:
        """Plans and dispatches one step, then reads the step before it while the device computes.

        `in_flight` says which steps are due. After any exception here, an interrupt too, the engine needs a
        `reset`.
        """
        outputs = self._admit_ready() if self._waiting_room else []
        plan = self.scheduler.schedule()
        if plan is not None and self._split_sequences and is_split(plan):
            outputs += self._dispatch_split(plan)
        elif plan is not None:
            self.in_flight.append(plan, self.executor.dispatch(plan))
        elif not self.in_flight and self._waiting_room:
            self._waiting_room.wait()
        for step in self.in_flight.take_due(has_new_step=plan is not None):
            outputs += self.read(step)
        return outputs

    def _admit_ready(self) -> list[SequenceOutput]:
        """Schedules the sequences for which all is there now; those for which it cannot be fail."""
        outputs = []
        for sequence, error in self._waiting_room.take_ready():
            if error is None:
                self.scheduler.add(sequence)
            else:
                outputs.append(self._fail(sequence, error))
        return outputs

    def _dispatch_split(self, plan: StepPlan) -> list[SequenceOutput]:
        """Dispatches a step in two halves. Where masks follow from tokens, these are read in between, while
        the device computes the first half."""
        handle = self.executor.begin(plan)
        outputs: list[SequenceOutput] = []
        masks = None
        if rows := masked_rows(plan):
            for step in self.in_flight.take_all():
                outputs += self.read(step)
            masks, unfillable = fill([row for row in rows if not row.sequence.is_finished], self.executor)
            outputs += [self._fail(sequence, error) for sequence, error in unfillable]
        self.executor.choose(handle, masks)
        self.in_flight.append(plan, handle)
        return outputs

    def read(self, step: StepInFlight) -> list[SequenceOutput]:
        """Waits for a step and gives each sampled token to its sequence, unless that ended in the
        meantime."""
        sequences = step.plan.sampling_sequences
        logprob_rows = self._logprob_rows(sequences) if self._logprob_sequences else ()
        output = self.executor.read(step.handle, logprob_rows)
        self.in_flight.last_wait_s = output.wait_s
        if logprob_rows:
            record_logprobs(sequences, output)
        for scores in output.prompt_scores:
            record_scores(scores)
        if output.expert_ids is not None:
            self._record_experts(step.plan, output.expert_ids)
        failed, advanced = [], []
        for sequence, token_id in zip(sequences, output.token_ids, strict=False):  # padding comes last
            if sequence is None:
                continue
            sequence.num_pending_tokens -= 1
            if sequence.finish_reason is not None:
                continue
            if token_id is None:
                failed.append(self._fail(sequence, EngineError(NOT_FINITE)))
            else:
                advanced.append(self._advance(sequence, token_id))
        if self._split_sequences:
            accept(advanced)
        for each in advanced:
            if each.finish_reason is not None:
                self._end(each.sequence, each.finish_reason)
        return failed + advanced

    def _record_experts(self, plan: StepPlan, expert_ids: ExpertIds) -> None:
        assert self.limits.num_experts is not None
        record_experts(plan, expert_ids)
        counted, counters = count_experts(expert_ids, self.limits.num_experts), self._counters
        before = counters.expert_tokens
        counters.expert_tokens = counted if before is None else before + counted

    def _logprob_rows(self, sequences: list[Sequence | None]) -> list[int]:
        return [row for row, sequence in enumerate(sequences) if sequence in self._logprob_sequences]

    def _advance(self, sequence: Sequence, token_id: int) -> SequenceOutput:
        """Appends a token, which may be the last."""
        if sequence.request.first_token_time is None:
            sequence.request.first_token_time = time.perf_counter()
        self._counters.num_generated_tokens += 1
        return append_token(sequence, token_id)

    def _fail(self, sequence: Sequence, error: JinferError) -> SequenceOutput:
        sequence.error, sequence.is_refused = str(error), isinstance(error, RequestError)
        self._end(sequence, FinishReason.ERROR)
        return SequenceOutput(sequence=sequence, token_id=None, text=None, finish_reason=FinishReason.ERROR)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self._sequences.discard(sequence)
        self._logprob_sequences.discard(sequence)
        self._split_sequences.discard(sequence)
        self._waiting_room.remove(sequence)
        self.scheduler.remove(sequence)
        if sequence.request.is_finished:
            sequence.request.finished_time = time.perf_counter()

    def reset(self, reason: str) -> None:
        """Ends all requests with an error and starts from empty: after a fault within a step neither the
        device nor the plans can be trusted. May be interrupted, and repeated."""
        for sequence in self._sequences:
            sequence.error = reason
            sequence.finish_reason = FinishReason.ERROR
            sequence.request.finished_time = time.perf_counter()
        self.scheduler.reset()
        self.in_flight.clear()
        self.executor.reset()
        self._logprob_sequences.clear()
        self._split_sequences.clear()
        self._waiting_room.clear()
        self._sequences.clear()

    def check_integrity(self) -> None:
        """Raises AssertionError unless pages and rows each have exactly one owner, and an idle engine holds
        none."""
        self.scheduler.check_integrity()
        if not self.has_work:
            assert self.scheduler.page_pool.num_used == 0, "pages are used though nothing runs"

    def close(self) -> None:
        """Gives back the memory of the device state. The engine cannot be used afterwards."""
        self.executor.close()
        self.in_flight.clear()

    def __repr__(self) -> str:
        scheduler = self.scheduler
        return f"Engine(running={scheduler.num_running}, waiting={scheduler.num_waiting}, {self.limits})"
