"""The path of an HTTP request to the engine, for every route: admitted, made into requests, watched over."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TypeVar

from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.requests.prompts import Prompt
from jinfer.requests.request_factory import RequestFactory
from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.errors import ApiError, DrainingError, retry_after
from jinfer.server.generation import Generation, Receive
from jinfer.server.json_body import bad_request
from jinfer.server.limits import ServerLimits
from jinfer.server.metrics import ServerMetrics
from jinfer.server.prompt_generation import PromptGeneration
from jinfer.server.served_engine import ServedEngine
from jinfer.server.template_workers import TemplateWorkers

T = TypeVar("T")
MAX_INLINE_SIZE = 4096  # characters or ids of prompts and rules that the event loop handles itself
NUM_TEXT_THREADS = 2
SHUTDOWN = "the server is shutting down, and this request did not end in the time that it had"


class GenerationService:
    """Runs what routes ask for: admits it, makes prompts and requests, and watches over clients."""

    def __init__(
        self,
        engine: ServedEngine,
        requests: RequestFactory,
        *,
        limits: ServerLimits,
        metrics: ServerMetrics,
        request_timeout_s: float | None = None,
    ) -> None:
        """A request that has not ended after `request_timeout_s` ends with what it has, and finish_reason
        `abort`."""
        self.engine = engine
        self.requests = requests
        self.limits = limits
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s
        self._templates = None if requests.tokenizer is None else TemplateWorkers(requests.tokenizer)
        self._threads = ThreadPoolExecutor(NUM_TEXT_THREADS, thread_name_prefix="jinfer-text")
        self._client_of: dict[Generation, str] = {}  # of those that run
        self._num_of_client: Counter[str] = Counter()
        self._drain_until: float | None = None
        self._waker: Waker | None = None

    @property
    def num_active(self) -> int:
        """Requests that generate."""
        return len(self._client_of)

    @property
    def templates(self) -> TemplateWorkers:
        """Workers that render conversations. Raises RequestError where the model has no tokenizer."""
        self.requests.need_tokenizer("chat")
        assert self._templates is not None
        return self._templates

    def prepare(self) -> None:
        """Starts what the first request would have to wait for."""
        tokenizer = self.requests.tokenizer
        if tokenizer is not None and tokenizer.chat_templates:
            self.templates.start()

    def check_open(self) -> None:
        """Raises DrainingError while the server is about to end, and EngineError where the engine is dead."""
        if self._drain_until is not None:
            raise DrainingError(max(1.0, self._drain_until - time.monotonic()))
        self.engine.check_open()

    def drain(self, grace_s: float) -> None:
        """Takes no more requests from now on. Those that run have `grace_s` by whoever calls `abort_all`."""
        self._drain_until = time.monotonic() + grace_s

    def abort_all(self, reason: str = SHUTDOWN) -> None:
        """Ends every request with an error."""
        for generation in tuple(self._client_of):
            generation.fail(reason)

    async def start(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams,
        *,
        receive: Receive,
        client: str,
        priority: int = 0,
        keeps_output: bool = True,
    ) -> Generation:
        """Starts `params.n` completions of each prompt, which end at once if the client leaves, as `receive`
        tells. Those of a lower `priority` begin first; without `keeps_output` their tokens are left out.
        Raises RequestError, OverloadedError or EngineError before anything runs."""
        self.check_open()
        self._check_size(len(prompts), params.n)
        self._check_client(client)
        arrival = time.perf_counter()
        size = sum(len(prompt.text or prompt.token_ids or ()) for prompt in prompts) + _rules_size(params)
        requests = await self.in_thread_if(
            size > MAX_INLINE_SIZE,
            lambda: self.requests.create_all(prompts, [params] * len(prompts), priority=priority),
        )
        self.check_open()
        queue = AsyncOutputQueue(requests, self._current_waker(), deadline=self._deadline())
        self.engine.submit(queue)
        for request in requests:
            self._metrics.request_prompt_tokens.observe(len(request.prompt_token_ids))
        generation = (Generation if keeps_output else PromptGeneration)(
            self.engine,
            queue,
            receive=receive,
            arrival=arrival,
            metrics=self._metrics,
            on_close=self._forget,
        )
        self._client_of[generation] = client
        self._num_of_client[client] += 1
        return generation

    async def in_thread_if(self, is_long: bool, work: Callable[[], T]) -> T:
        """The result of a function, called in a thread where it would keep the event loop too long."""
        if not is_long:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Ends the threads, and the processes of templates."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._templates is not None:
            self._templates.close()

    def _forget(self, generation: Generation) -> None:
        """Counts a generation no more. May be repeated."""
        client = self._client_of.pop(generation, None)
        if client is not None:
            self._num_of_client[client] -= 1
            self._num_of_client += Counter()  # without those at 0

    def _check_size(self, num_prompts: int, n: int) -> None:
        limits = self.limits
        if num_prompts > limits.max_prompts:
            raise bad_request(
                f"{num_prompts} prompts, and max_prompts={limits.max_prompts}; send several requests",
                param="prompt",
            )
        if num_prompts * n > limits.max_sequences:
            raise bad_request(
                f"{num_prompts} prompts with n={n} are {num_prompts * n} completions, and "
                f"max_sequences={limits.max_sequences}; send several requests",
                param="n",
            )

    def _check_client(self, client: str) -> None:
        num_active = self._num_of_client[client]
        if num_active >= self.limits.max_requests_per_client:
            raise ApiError(
                f"this address has {num_active} requests that run, and "
                f"max_requests_per_client={self.limits.max_requests_per_client}; wait until one ends",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code="too_many_requests",
                headers=retry_after(1),
            )

    def _deadline(self) -> float | None:
        return None if self._request_timeout_s is None else time.monotonic() + self._request_timeout_s

    def _current_waker(self) -> Waker:
        event_loop = asyncio.get_running_loop()
        if self._waker is None or self._waker.event_loop is not event_loop:
            self._waker = Waker(event_loop)
        return self._waker


def _rules_size(params: SamplingParams) -> int:
    """The characters of bad words, and the ids that are allowed."""
    return sum(map(len, params.bad_words or ())) + len(params.allowed_token_ids or ())
