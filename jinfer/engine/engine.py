"""The engine: requests go in, and each step brings their sequences forward. `Engine.step` is the order of
work."""

import dataclasses
import time
from collections.abc import Iterable

from jinfer.config import Limits
from jinfer.engine.stats import EngineStats
from jinfer.engine.steps import StepExecutor, StepInFlight, StepOutput, StepQueue, one_at_a_time, overlapped
from jinfer.requests.request import FinishReason, Request, Sequence, SequenceOutput, append_token
from jinfer.scheduling.scheduler import Scheduler


class Engine:
    """Runs requests by continuous batching. Not safe for use by several threads at a time; `EngineLoop`
    is."""

    def __init__(self, scheduler: Scheduler, executor: StepExecutor, *, overlap: bool = True) -> None:
        """`overlap` plans and dispatches a step before the last one is read."""
        self.scheduler = scheduler
        self.executor = executor
        self._counters = scheduler.counters
        self.in_flight = StepQueue(overlapped if overlap else one_at_a_time)
        self._sequences: set[Sequence] = set()  # accepted and not ended
        self._logprob_sequences: set[Sequence] = set()  # those of them that want log probabilities

    @property
    def limits(self) -> Limits:
        return self.scheduler.limits

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def stats(self) -> EngineStats:
        """The present state of the engine, and its counters since the start."""
        scheduler = self.scheduler
        pool = scheduler.page_pool
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_used_pages=pool.num_used,
            num_cached_pages=pool.num_cached,
            num_free_pages=pool.num_free,
            **dataclasses.asdict(scheduler.counters),
        )

    def add(self, request: Request) -> None:
        """Accepts a validated request: from here on it ends, in one way or another."""
        for sequence in request.sequences:
            self._sequences.add(sequence)
            if request.params.logprobs is not None:
                self._logprob_sequences.add(sequence)
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
        plan = self.scheduler.schedule()
        if plan is not None:
            self.in_flight.append(plan, self.executor.dispatch(plan))
        outputs = []
        for step in self.in_flight.take_due(has_new_step=plan is not None):
            outputs += self.read(step)
        return outputs

    def read(self, step: StepInFlight) -> list[SequenceOutput]:
        """Waits for a step and gives each sampled token to its sequence, unless that ended in the
        meantime."""
        sequences = step.plan.sampling_sequences
        logprob_rows = self._logprob_rows(sequences) if self._logprob_sequences else ()
        output = self.executor.read(step.handle, logprob_rows)
        self.in_flight.last_wait_s = output.wait_s
        if logprob_rows:
            _record_logprobs(sequences, output)
        outputs = []
        for sequence, token_id in zip(sequences, output.token_ids, strict=False):  # padding comes last
            if sequence is None:
                continue
            sequence.num_pending_tokens -= 1
            if sequence.finish_reason is None:
                outputs.append(
                    self._fail(sequence) if token_id is None else self._advance(sequence, token_id)
                )
        return outputs

    def _logprob_rows(self, sequences: list[Sequence | None]) -> list[int]:
        return [row for row, sequence in enumerate(sequences) if sequence in self._logprob_sequences]

    def _advance(self, sequence: Sequence, token_id: int) -> SequenceOutput:
        """Appends a token, and ends the sequence if it is the last."""
        if sequence.request.first_token_time is None:
            sequence.request.first_token_time = time.perf_counter()
        self._counters.num_generated_tokens += 1
        output = append_token(sequence, token_id)
        if output.finish_reason is not None:
            self._end(sequence, output.finish_reason)
        return output

    def _fail(self, sequence: Sequence) -> SequenceOutput:
        sequence.error = "the model gave logits that are not finite (NaN or infinity)"
        self._end(sequence, FinishReason.ERROR)
        return SequenceOutput(sequence=sequence, token_id=None, text=None, finish_reason=FinishReason.ERROR)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self._sequences.discard(sequence)
        self._logprob_sequences.discard(sequence)
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


def _record_logprobs(sequences: list[Sequence | None], output: StepOutput) -> None:
    """Keeps the log probability of each sampled token, and those of the `params.logprobs` most likely
    tokens."""
    for row, found in output.logprobs.items():
        sequence = sequences[row]
        token_id = output.token_ids[row]
        if sequence is None or token_id is None:
            continue
        count = sequence.params.logprobs
        entry = dict(zip(found.top_token_ids[:count], found.top_logprobs[:count], strict=True))
        sequence.logprobs.append({**entry, token_id: found.logprob})
        sequence.cumulative_logprob += found.logprob
