"""The times at which requests are sent: their own, whatever the server does (open loop), or each when one
before it has ended (closed loop).

The clock is the running event loop's, which all processes of a machine share.
"""

import asyncio
import dataclasses
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jinfer.bench.arrivals import poisson_times
from jinfer.bench.serve.answers import Answer, AnswerError
from jinfer.bench.serve.conversations import Content, Conversation, Conversations
from jinfer.bench.serve.records import INTERRUPTED, NOT_SENT, RequestRecord
from jinfer.errors import JinferError

History = Sequence[tuple[Content, str]]
MakeBody = Callable[[Conversation, History], bytes]
Ask = Callable[[bytes, Answer], Awaitable[None]]


class LoadError(JinferError):
    """A load cannot be made, for a reason that is not an option's."""


@dataclass(frozen=True)
class LoadPlan:
    """The amount of a load, and its times. None bounds nothing.

    - `rate_per_s`: conversations that begin per second, at random (Poisson).
    - `concurrency`: conversations at a time; None with `rate_per_s`, and where the workload has times.
    - `num_conversations`, `duration_s`: none begins beyond.
    - `think_time_s`: between an answer and the next turn.
    """

    rate_per_s: float | None = None
    concurrency: int | None = None
    num_conversations: int | None = None
    duration_s: float | None = None
    think_time_s: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class LoadPart:
    """The conversations of one process: those whose number is `index` modulo `count`."""

    index: int = 0
    count: int = 1

    def share(self, total: int) -> int:
        """The part of `total` that falls to this process; all of them add up."""
        return total // self.count + (self.index < total % self.count)


@dataclass
class Tally:
    """Counts of a load so far."""

    num_sent: int = 0
    num_ok: int = 0
    num_failed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.num_sent + other.num_sent, self.num_ok + other.num_ok, self.num_failed + other.num_failed
        )


class Load:
    """Has conversations as a plan says. `records` has every request that was planned, sent or not.

    `make_body` makes the body of the turn after a history, before the turn's time comes. `ask` sends it and
    fills an answer; it raises AnswerError.
    """

    def __init__(
        self,
        conversations: Conversations,
        plan: LoadPlan,
        make_body: MakeBody,
        ask: Ask,
        part: LoadPart = LoadPart(),
    ) -> None:
        self._conversations, self._plan, self._part = conversations, plan, part
        self._make_body, self._ask = make_body, ask
        self.records: list[RequestRecord] = []
        self.tally = Tally()

    async def run(self, start_s: float) -> None:
        """Returns when all has ended. `start_s` is when the load begins, by the event loop's clock.

        When it is cancelled, the requests that run are recorded as interrupted.
        """
        self._start_s = start_s
        await self._sleep_until(0)
        async with asyncio.TaskGroup() as group:
            if self._plan.concurrency is None:
                await self._run_open(group)
            else:
                numbers = self._numbers()
                for _ in range(self._part.share(self._plan.concurrency)):
                    group.create_task(self._run_slot(numbers))

    async def _run_open(self, group: asyncio.TaskGroup) -> None:
        for number, time_s in self._starts():
            conversation = self._conversations.get(number)
            body = self._make_body(conversation, ())
            await self._sleep_until(time_s)
            group.create_task(self._converse(number, conversation, body, time_s))

    async def _run_slot(self, numbers: Iterator[int]) -> None:
        duration_s = self._plan.duration_s
        for number in numbers:
            if duration_s is not None and self._now_s() >= duration_s:
                return
            conversation = self._conversations.get(number)
            body = self._make_body(conversation, ())
            await self._converse(number, conversation, body, self._now_s())

    def _numbers(self) -> Iterator[int]:
        return itertools.islice(
            itertools.count(), self._part.index, self._plan.num_conversations, self._part.count
        )

    def _starts(self) -> Iterator[tuple[int, float]]:
        """The conversations of this part, each with its time."""
        starts = itertools.islice(enumerate(self._times()), self._plan.num_conversations)
        return itertools.islice(starts, self._part.index, None, self._part.count)

    def _times(self) -> Iterable[float]:
        if self._conversations.times_s is not None:
            return self._conversations.times_s
        assert self._plan.rate_per_s is not None
        times = poisson_times(self._plan.rate_per_s, random.Random(self._plan.seed))
        duration_s = math.inf if self._plan.duration_s is None else self._plan.duration_s
        return itertools.takewhile(lambda time_s: time_s < duration_s, times)

    async def _converse(self, number: int, conversation: Conversation, body: bytes, planned_s: float) -> None:
        history: list[tuple[Content, str]] = []
        num_recorded = 0
        try:
            for turn, content in enumerate(conversation.turns):
                if turn:
                    planned_s = self._now_s() + self._plan.think_time_s
                    body = self._make_body(conversation, history)
                    await self._sleep_until(planned_s)
                num_recorded += 1
                answer = Answer()
                await self._request(RequestRecord(number, turn, planned_s), body, answer)
                history.append((content, answer.text))
        except AnswerError:
            pass  # it is recorded, and no turn can follow it
        finally:
            self.records += [
                RequestRecord(number, turn, failure=NOT_SENT, message="the turn before it has no answer")
                for turn in range(num_recorded, len(conversation.turns))
            ]

    async def _request(self, planned: RequestRecord, body: bytes, answer: Answer) -> None:
        """Sends a request, and records it however it ends. Raises AnswerError where that is not well."""
        sent_s, failure = self._now_s(), None
        self.tally.num_sent += 1
        try:
            await self._ask(body, answer)
        except AnswerError as error:
            failure = error
            raise
        except asyncio.CancelledError:
            failure = AnswerError(INTERRUPTED, "the load was ended before the answer was")
            raise
        finally:
            self._record(planned, sent_s, answer, failure)

    def _record(
        self, planned: RequestRecord, sent_s: float, answer: Answer, failure: AnswerError | None
    ) -> None:
        start_s = self._start_s
        self.tally.num_ok += failure is None
        self.tally.num_failed += failure is not None
        self.records.append(
            dataclasses.replace(
                planned,
                sent_s=sent_s,
                chunk_times_s=tuple(time_s - start_s for time_s in answer.chunk_times_s),
                ended_s=self._now_s() if answer.ended_s is None else answer.ended_s - start_s,
                num_prompt_tokens=answer.count("prompt_tokens"),
                num_cached_tokens=answer.num_cached_tokens,
                num_output_tokens=answer.count("completion_tokens"),
                finish_reason=answer.finish_reason,
                failure=None if failure is None else failure.reason,
                message=None if failure is None else failure.message,
            )
        )

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._start_s

    async def _sleep_until(self, time_s: float) -> None:
        delay_s = time_s - self._now_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
