"""The outputs of one HTTP request, as pieces of text for whoever writes its answer."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jinfer.async_queue import AsyncOutputQueue
from jinfer.errors import EngineError, JinferError, RequestError
from jinfer.requests.request import FinishReason, Request, Sequence, SequenceOutput
from jinfer.server.errors import ClientLeftError
from jinfer.server.metrics import ServerMetrics
from jinfer.server.served_engine import ServedEngine
from jinfer.text.placed_token import PlacedToken

Receive = Callable[[], Any]


class Piece(NamedTuple):
    """New final text of one choice, with the token of a step; the last of a choice has a finish_reason.

    Choices are counted over all prompts: choice i of n is completion i % n of prompt i // n. `logprobs` are
    those of the token, where they were asked for, the sampled one's included. `placed_tokens` are the markers
    of the model's format that were not in an earlier piece, with their places in the text from its beginning.
    `num_output_tokens` are those of all choices up to this piece.
    """

    choice: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: Mapping[int, float] | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    placed_tokens: tuple[PlacedToken, ...] = ()
    num_output_tokens: int = 0


class Usage(NamedTuple):
    """Tokens of a request so far. `num_cached_tokens` of the prompts were found in the prefix cache."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int


class TakenChoice:
    """One choice as its tokens are taken."""

    __slots__ = ("index", "last_token_time", "num_placed", "num_tokens", "wants_logprobs")

    def __init__(self, index: int, sequence: Sequence) -> None:
        self.index = index
        self.num_tokens = 0
        self.num_placed = 0
        self.last_token_time: float | None = None
        self.wants_logprobs = sequence.params.logprobs is not None

    def new_placed_tokens(self, sequence: Sequence) -> tuple[PlacedToken, ...]:
        """The markers that were placed since the last call."""
        if sequence.detokenizer is None or self.num_placed == len(sequence.detokenizer.placed_tokens):
            return ()
        placed = tuple(sequence.detokenizer.placed_tokens[self.num_placed :])
        self.num_placed += len(placed)
        return placed


class Generation:
    """The requests of one HTTP request as they run. It must be closed, which aborts what is unfinished."""

    def __init__(
        self,
        engine: ServedEngine,
        queue: AsyncOutputQueue,
        *,
        receive: Receive,
        arrival: float,
        metrics: ServerMetrics,
        on_close: Callable[["Generation"], None],
    ) -> None:
        """`receive` is ASGI's, which tells when the client leaves; `arrival` a time of `time.perf_counter()`.
        `on_close` may be called more than once."""
        self.arrival = arrival
        self.first_token_time: float | None = None
        self._engine = engine
        self._queue = queue
        self._on_close = on_close
        self._metrics = metrics
        self._has_client_left = False
        self._num_output_tokens = 0
        sequences = [sequence for request in queue.requests for sequence in request.sequences]
        self._choices = {sequence: TakenChoice(index, sequence) for index, sequence in enumerate(sequences)}
        self._watcher: asyncio.Task[None] | None = asyncio.create_task(self._watch(receive))

    @property
    def requests(self) -> tuple[Request, ...]:
        """A request for each prompt."""
        return self._queue.requests

    @property
    def num_choices(self) -> int:
        """Completions over all prompts."""
        return len(self._choices)

    def usage(self, last: Piece | None = None) -> Usage:
        """Tokens of the pieces that were taken so far, or of those up to `last`."""
        return Usage(
            num_prompt_tokens=sum(len(request.prompt_token_ids) for request in self.requests),
            num_output_tokens=self._num_output_tokens if last is None else last.num_output_tokens,
            num_cached_tokens=sum(request.num_cached_tokens or 0 for request in self.requests),
        )

    async def take(self) -> list[Piece]:
        """Waits for pieces; none means the end. Raises ClientLeftError, EngineError where the engine, or one
        of the choices, failed, and RequestError for what the engine refuses, such as a grammar."""
        try:
            outputs = await self._queue.take()
        except EngineError:
            if self._has_client_left:
                raise ClientLeftError from None
            raise
        now = time.perf_counter()
        return [self._piece(output, now) for output in outputs]

    async def take_all(self) -> list[list[Piece]]:
        """Waits for the end, and gives the pieces of each choice. Raises what `take` raises."""
        collected: list[list[Piece]] = [[] for _ in self._choices]
        while pieces := await self.take():
            for piece in pieces:
                collected[piece.choice].append(piece)
        return collected

    def fail(self, reason: str) -> None:
        """Ends it: whoever takes gets an EngineError with the reason."""
        self._engine.abandon(self._queue)
        self._queue.fail(reason)

    def close(self) -> None:
        """Aborts what is unfinished. May be repeated."""
        if self._watcher is not None:
            self._watcher.cancel()
            # A cancelled task keeps its error, whose traceback keeps this object: the two would wait for the
            # garbage collector, and all of the HTTP request with them.
            self._watcher = None
        self._engine.abandon(self._queue)
        self._on_close(self)

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._has_client_left = True
        self.fail("the client left")

    def _piece(self, output: SequenceOutput, now: float) -> Piece:
        sequence = output.sequence
        choice = self._choices[sequence]
        text = output.detokenize()
        placed = choice.new_placed_tokens(sequence)
        logprobs = None
        if output.token_id is not None:
            if choice.wants_logprobs:
                logprobs = sequence.logprobs[choice.num_tokens]
            self._count_token(choice, now)
        if output.finish_reason is None:
            assert output.token_id is not None, "an output without a token that is no end"
            return Piece(
                *(choice.index, text, (output.token_id,), logprobs, None, None, placed),
                num_output_tokens=self._num_output_tokens,
            )
        if output.finish_reason is FinishReason.ERROR:
            raise _error_of(sequence)
        self._count_end(choice, output.finish_reason, now)
        token_ids = () if output.token_id is None else (output.token_id,)
        return Piece(
            *(choice.index, text, token_ids, logprobs, output.finish_reason, sequence.stop_reason, placed),
            num_output_tokens=self._num_output_tokens,
        )

    def _count_token(self, choice: TakenChoice, now: float) -> None:
        choice.num_tokens += 1
        self._num_output_tokens += 1
        if choice.last_token_time is not None:
            self._metrics.inter_token_latency.observe(now - choice.last_token_time)
        elif self.first_token_time is None:
            self._count_first_token(now)
        choice.last_token_time = now

    def _count_first_token(self, now: float) -> None:
        self.first_token_time = now
        self._metrics.time_to_first_token.observe(now - self.arrival)
        for request in self.requests:
            if request.begun_time is not None:
                self._metrics.request_queue_time.observe(request.begun_time - request.arrival_time)

    def _count_end(self, choice: TakenChoice, reason: FinishReason, now: float) -> None:
        self._metrics.count_finished(
            reason.value, latency_s=now - self.arrival, num_output_tokens=choice.num_tokens
        )


def _error_of(sequence: Sequence) -> JinferError:
    if sequence.is_refused:
        return RequestError(sequence.error or "the engine refuses this request")
    return EngineError(sequence.error or "the engine failed at this request")
