"""The front door for asyncio: `AsyncLLM` with generate, chat, stream, chat_stream and abort, its engine in a
thread of its own."""

import asyncio
import atexit
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.config import EngineConfig
from jinfer.engine.loop import EngineLoop
from jinfer.engine.stats import EngineStats
from jinfer.errors import RequestError, shown
from jinfer.loading import ModelSource
from jinfer.requests.outputs import RequestOutput, StreamPiece
from jinfer.requests.prompts import Messages, Prompt, Prompts, as_params, as_prompts
from jinfer.requests.request import SequenceOutput
from jinfer.requests.sampling_params import SamplingParams
from jinfer.startup import start_engine
from jinfer.text.tokenizer import Tokenizer
from jinfer.weights.params import Params

STREAM_CLOSED = "this stream was closed"


class AsyncLLM:
    """A model on a device for the tasks of an event loop, which goes on while the engine steps in its thread.

    Arguments are those of `LLM`. The start takes as long as LLM's: do it before the event loop runs, or in
    `asyncio.to_thread`. `close`, or an async with block, gives the memory back.

    A task that is cancelled, and a stream that is closed or dropped, leave the engine at once. With
    `timeout_s`, what has not ended by then ends with the tokens that it has and finish_reason `abort`. Calls
    of a lower `priority` begin first, and keep their pages longest where these are short.
    """

    def __init__(
        self,
        model: ModelSource = None,
        *,
        params: Params | None = None,
        tokenizer: Tokenizer | str | Path | None = None,
        **options: Any,
    ) -> None:
        """Raises ConfigError for options, and ModelError for a model, that cannot be used."""
        self.config = EngineConfig.from_options(options)
        self.parts = start_engine(model, self.config, params=params, tokenizer=tokenizer)
        self.limits = self.parts.limits
        self._waker: Waker | None = None
        self._loop = EngineLoop(self.parts.engine, self.parts.give_back)
        self._loop.start()
        atexit.register(self._loop.close)  # a thread that steps while Python ends could crash
        self._finalizer = weakref.finalize(self, _close_soon, self._loop)
        self._finalizer.atexit = False

    async def generate(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        **options: Any,
    ) -> list[RequestOutput]:
        """Completes a string, token ids, or a list of either, as `LLM.generate` does. A grammar is compiled
        while the event loop goes on."""
        prompt_list = as_prompts(prompts)
        return await self._complete(
            prompt_list, as_params(params, options, len(prompt_list)), timeout_s, priority
        )

    async def chat(
        self,
        messages: Messages,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        **options: Any,
    ) -> list[RequestOutput]:
        """Answers a conversation, or a list of them, through the model's chat template, as `LLM.chat`
        does."""
        prompts = self.parts.requests.render(messages)
        return await self._complete(prompts, as_params(params, options, len(prompts)), timeout_s, priority)

    def stream(
        self,
        prompts: Prompts,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        **options: Any,
    ) -> "AsyncStream":
        """Starts requests whose text comes as it becomes final, over all prompts. To be called in an event
        loop."""
        prompt_list = as_prompts(prompts)
        queue = self._submit(prompt_list, as_params(params, options, len(prompt_list)), timeout_s, priority)
        return AsyncStream(self._loop, queue)

    def chat_stream(
        self,
        messages: Messages,
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        timeout_s: float | None = None,
        priority: int = 0,
        **options: Any,
    ) -> "AsyncStream":
        """Starts answers whose text comes as it becomes final, over all conversations, as `LLM.chat_stream`
        does. To be called in an event loop."""
        prompts = self.parts.requests.render(messages)
        queue = self._submit(prompts, as_params(params, options, len(prompts)), timeout_s, priority)
        return AsyncStream(self._loop, queue)

    def abort(self, request_id: str) -> None:
        """Ends a request with finish_reason `abort`, unless it has ended: from any thread, before the next
        step."""
        self._loop.abort(request_id)

    def stats(self) -> EngineStats:
        """The present state of the engine, perhaps in the middle of a step, and its counters since the
        start."""
        return self.parts.engine.stats()

    async def check_integrity(self) -> None:
        """Raises AssertionError if a page or a row is lost; for tests."""
        await asyncio.to_thread(self._loop.between_steps, self.parts.engine.check_integrity)

    async def close(self) -> None:
        """Gives back the device's memory. Params that the caller brought stay. Requests still running
        fail."""
        await asyncio.to_thread(self._loop.close)
        atexit.unregister(self._loop.close)

    async def __aenter__(self) -> "AsyncLLM":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def _complete(
        self, prompts: list[Prompt], params: list[SamplingParams], timeout_s: float | None, priority: int
    ) -> list[RequestOutput]:
        self._loop.check_open()
        if any(each.structured_outputs is not None for each in params):
            await asyncio.to_thread(self.parts.requests.wait_for_grammars, params)
        queue = self._submit(prompts, params, timeout_s, priority)
        try:
            while await queue.take():
                pass
        finally:
            self._loop.abandon(queue)
        return [RequestOutput.of(request) for request in queue.requests]

    def _submit(
        self, prompts: list[Prompt], params: list[SamplingParams], timeout_s: float | None, priority: int
    ) -> AsyncOutputQueue:
        self._loop.check_open()
        deadline = _deadline(timeout_s)
        event_loop = asyncio.get_running_loop()
        if self._waker is None or self._waker.event_loop is not event_loop:
            self._waker = Waker(event_loop)
        requests = self.parts.requests.create_all(prompts, params, priority=priority)
        queue = AsyncOutputQueue(requests, self._waker, deadline=deadline)
        self._loop.submit(queue)
        return queue


class AsyncStream(AsyncIterator[StreamPiece]):
    """The pieces of some requests, for one task. A task that is cancelled while it waits for a piece closes
    it."""

    def __init__(self, loop: EngineLoop, queue: AsyncOutputQueue) -> None:
        self._loop = loop
        self._queue = queue
        self._prompt_index = {request: index for index, request in enumerate(queue.requests)}
        self._outputs: deque[SequenceOutput] = deque()
        self._is_closed = False

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The ids of the requests, in the order of their prompts: for `AsyncLLM.abort`."""
        return tuple(request.request_id for request in self._queue.requests)

    async def __anext__(self) -> StreamPiece:
        if not self._outputs and not self._is_closed:
            await self._wait()
        if self._is_closed or not self._outputs:
            raise StopAsyncIteration
        output = self._outputs.popleft()
        return StreamPiece.of(self._prompt_index[output.sequence.request], output)

    async def _wait(self) -> None:
        try:
            self._outputs.extend(await self._queue.take())
        except asyncio.CancelledError:
            self._close()
            raise

    async def aclose(self) -> None:
        """Aborts what still runs, and ends the iteration."""
        self._close()

    def _close(self) -> None:
        self._is_closed = True
        self._loop.abandon(self._queue)
        self._queue.fail(STREAM_CLOSED)

    def __del__(self) -> None:
        self._loop.abandon(self._queue)


def _deadline(timeout_s: float | None) -> float | None:
    if timeout_s is None:
        return None
    if not isinstance(timeout_s, int | float) or isinstance(timeout_s, bool) or not timeout_s > 0:
        raise RequestError(f"timeout_s={shown(timeout_s)} must be a number of seconds above 0")
    return time.monotonic() + timeout_s


def _close_soon(loop: EngineLoop) -> None:
    loop.close_soon()
    atexit.unregister(loop.close)
