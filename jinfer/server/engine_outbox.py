"""The engine process's side of output queues: what is put into them leaves in one message for each step."""

import time
from collections.abc import Callable, Iterator

from jinfer.engine.engine import Engine
from jinfer.engine.output_queue import OutputQueue
from jinfer.requests.request import Request, Sequence, SequenceOutput
from jinfer.server.wire import Begun, End, Failed, Logprobs, Pong, PromptLogprobs, Step, ToFront

STATS_INTERVAL_S = 0.25
MAX_PROMPT_LOGPROBS = 4096  # positions in one message: about a megabyte


class EngineOutbox:
    """All that the engine has to say to the front, until a turn of its loop ends. For the stepping thread."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._last_stats = clock()
        self._num_prompt_tokens_seen = 0
        self._waiting: dict[Request, int] = {}  # with its first key, until it has begun
        self._before: list[ToFront] = []  # messages that go before the step's, and that follow it
        self._later: list[ToFront] = []
        self._step = _new_step()

    def add_waiting(self, requests: dict[Request, int]) -> None:
        """Watches for the beginning of requests, each given with its first key."""
        self._waiting |= requests

    def add_token(self, key: int, token_id: int) -> None:
        """Adds a token after which its sequence goes on."""
        self._step.keys.append(key)
        self._step.token_ids.append(token_id)

    def add_end(self, end: End) -> None:
        """Adds the last output of a sequence."""
        self._step.ends.append(end)

    def add_logprobs(self, logprobs: Logprobs) -> None:
        """Adds the log probabilities of a token."""
        self._step.logprobs.append(logprobs)

    def add_prompt_logprobs(self, first_key: int, found: list[dict[int, float] | None]) -> None:
        """Adds the log probabilities of a prompt, which arrive before the step's outputs."""
        for start in range(0, len(found), MAX_PROMPT_LOGPROBS):
            part = found[start : start + MAX_PROMPT_LOGPROBS]
            self._before.append(PromptLogprobs(first_key, start, part))

    def add_failure(self, submission: int, reason: str) -> None:
        """Adds the end of a submission by a fault."""
        self._later.append(Failed(submission, reason))

    def answer(self, number: int) -> None:
        """Adds the answer to a Ping."""
        self._later.append(Pong(number, self._engine.stats()))

    def take(self) -> Iterator[ToFront]:
        """The messages of a turn, in their order. There is no step where nothing happened."""
        self._add_begun()
        before, step, later = self._before, self._step, self._later
        self._before, self._step, self._later = [], _new_step(), []
        is_empty = not (step.keys or step.ends or step.begun)
        now = self._clock()
        if now - self._last_stats >= STATS_INTERVAL_S or not self._engine.has_work:
            self._last_stats = now
            step.stats, is_empty = self._engine.stats(), False
        yield from before
        if not is_empty:
            yield step
        yield from later

    def _add_begun(self) -> None:
        """Looks at the requests that wait, if some prompt has begun since the last look."""
        num_prompt_tokens = self._engine.scheduler.counters.num_prompt_tokens
        if num_prompt_tokens == self._num_prompt_tokens_seen:
            return
        self._num_prompt_tokens_seen = num_prompt_tokens
        for request in [each for each in self._waiting if each.begun_time is not None or each.is_finished]:
            first_key = self._waiting.pop(request)
            if request.begun_time is not None and request.num_cached_tokens is not None:
                waited_s = request.begun_time - request.arrival_time
                self._step.begun.append(Begun(first_key, request.num_cached_tokens, waited_s))


class WireQueue(OutputQueue):
    """The requests of one submission. What is put here leaves with the step."""

    def __init__(
        self,
        submission: int,
        requests: dict[Request, int],
        outbox: EngineOutbox,
        *,
        deadline: float | None,
        when_over: Callable[["WireQueue"], None],
    ) -> None:
        """`requests` have their first keys beside them. `when_over` is called once, when no more comes."""
        super().__init__(requests, deadline=deadline)
        self.submission = submission
        self.keys: dict[Sequence, int] = {
            sequence: first_key + sequence.index
            for request, first_key in requests.items()
            for sequence in request.sequences
        }
        self._outbox = outbox
        self._when_over = when_over
        self._num_logprobs_sent = {
            sequence: 0 for sequence in self.keys if sequence.params.logprobs is not None
        }
        self._unscored = {
            request: key for request, key in requests.items() if request.params.prompt_logprobs is not None
        }  # requests whose prompts' log probabilities are not sent yet

    def put(self, output: SequenceOutput) -> None:
        sequence, token_id = output.sequence, output.token_id
        key = self.keys[sequence]
        if self._unscored and sequence.request in self._unscored:
            first_key = self._unscored.pop(sequence.request)
            self._outbox.add_prompt_logprobs(first_key, sequence.request.prompt_logprobs or [])
        if self._num_logprobs_sent and token_id is not None:
            self._add_logprobs(sequence, key, token_id)
        if output.finish_reason is None:
            assert token_id is not None, "an output is a token, an end or both"
            self._outbox.add_token(key, token_id)
            return
        self._outbox.add_end(
            End(
                *(key, token_id, output.finish_reason),
                *(sequence.stop_reason, sequence.error, sequence.is_refused),
            )
        )
        self._open.discard(sequence)
        if self.is_complete:
            self.drop_sequences()
            self._when_over(self)

    def fail(self, reason: str) -> None:
        if not self.is_over:
            super().fail(reason)
            self._outbox.add_failure(self.submission, reason)
            self._when_over(self)

    def _add_logprobs(self, sequence: Sequence, key: int, token_id: int) -> None:
        index = self._num_logprobs_sent.get(sequence)
        if index is not None and index < len(sequence.logprobs):
            self._num_logprobs_sent[sequence] = index + 1
            self._outbox.add_logprobs(Logprobs(key, token_id, sequence.logprobs[index]))


def _new_step() -> Step:
    return Step(keys=[], token_ids=[], ends=[], begun=[], logprobs=[], stats=None)
