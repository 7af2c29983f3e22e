"""An engine without jax: a scheduler, and a device in plain Python whose tokens depend on all before them."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any

from jinfer import ModelNotFoundError, SamplingParams
from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.config import EngineLimits
from jinfer.engine.engine import Engine
from jinfer.engine.stats import Counters
from jinfer.requests.prompts import Prompt
from jinfer.requests.request import Sequence, SequenceOutput
from jinfer.requests.request_factory import RequestFactory
from jinfer.scheduling.page_pool import PagePool
from jinfer.scheduling.scheduler import Scheduler
from jinfer.server.engine_client import EngineClient
from jinfer.server.engine_process import StartedEngine, serve
from jinfer.server.served_engine import ModelInfo
from jinfer.server.supervisor import Supervisor
from jinfer.server.waiting_line import QueueLimits
from jinfer.server.wire import EngineSpec
from tests.scheduling.fake_device import VOCAB_SIZE, FakeDevice, expected_token

SECONDS = 120  # nothing takes so long that does not hang
SLOW_STEP_S = 0.2  # of fifty of which no machine misses all
LIMITS = EngineLimits(page_size=4, num_pages=40, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64)
INFO = ModelInfo(
    architecture="FakeForCausalLM",
    dtype="float32",
    vocab_size=VOCAB_SIZE,
    eos_token_ids=(),
    sampling_defaults={},
    tokenizer_directory=None,
    limits=LIMITS,
    memory="memory: none",
    device="a device in plain Python",
)


def new_engine(device: type[FakeDevice] = FakeDevice) -> Engine:
    scheduler = Scheduler(LIMITS, Counters())
    return Engine(scheduler, device(LIMITS, scheduler.page_pool))


def new_factory() -> RequestFactory:
    """Makes requests of token ids."""
    return RequestFactory(
        tokenizer=None,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=frozenset(),
        sampling_defaults={},
        limits=LIMITS,
    )


def expected_tokens(sequence: Sequence, count: int) -> list[int]:
    """The first tokens of a sequence that runs alone."""
    token_ids = sequence.token_ids
    sequence.token_ids = list(sequence.request.prompt_token_ids)
    for _ in range(count):
        sequence.token_ids.append(expected_token(sequence))
    expected, sequence.token_ids = sequence.output_token_ids, token_ids
    return expected


class FallibleDevice(FakeDevice):
    """Steps fail while `fault` says why, take `step_s`, and wait for `release` after `num_free_steps`."""

    fault: str | None = None
    reset_fault: str | None = None
    step_s = 0.0
    num_free_steps: int | None = None

    def __init__(self, limits: EngineLimits, pool: PagePool) -> None:
        super().__init__(limits, pool)
        self.is_held = False
        self._num_steps = 0
        self._go_on = threading.Event()

    def release(self) -> None:
        self._go_on.set()

    def dispatch(self, plan):
        self._num_steps += 1
        if self.num_free_steps is not None and self._num_steps > self.num_free_steps:
            self.is_held = True
            assert self._go_on.wait(SECONDS), "nobody released the device"
        time.sleep(self.step_s)
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise RuntimeError(fault)
        return super().dispatch(plan)

    def reset(self) -> None:
        if self.reset_fault is not None:
            raise RuntimeError(self.reset_fault)
        super().reset()


class EngineThread:
    """The engine process's `serve` in a thread of the test, over a socket pair, with an engine without
    jax."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rules = new_factory().rules
        self.exit_status: int | None = None
        self.was_left = threading.Event()  # as os._exit would
        self.num_given_back = 0
        self.front, self.connection = socket.socketpair()
        self.front.setblocking(False)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        self.exit_status = serve(self.connection, self._start, exit_now=self.was_left.set)
        with contextlib.suppress(OSError):  # the front was faster
            self.connection.shutdown(socket.SHUT_RDWR)  # a thread may be reading, as in no process that ended
        self.connection.close()

    def _start(self, message: EngineSpec) -> StartedEngine:
        if message.model == "no such model":
            raise ModelNotFoundError("there is no such model")
        if message.model == "a bug":
            raise KeyError("a bug")
        logging.getLogger("jinfer").warning("loading %s", message.model)
        return StartedEngine(self.engine, INFO, self.rules, self._give_back)

    def _give_back(self) -> None:
        self.num_given_back += 1

    def join(self) -> int | None:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the engine goes on without its front"
        return self.exit_status


async def connected(
    engine: EngineThread, limits: QueueLimits | None = None, model: str | None = None
) -> EngineClient:
    """A client of the engine of a thread."""
    client = EngineClient(None, limits or QueueLimits(), lambda line: None)
    await client.connect(engine.front, EngineSpec(model=model))
    return client


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """In an event loop of its own, which fails if it hangs."""

    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, SECONDS)

    return asyncio.run(bounded())


def new_queue(
    prompts: Iterable[Collection[int]] = ((1, 2, 3),), *, timeout_s: float | None = None, **params: Any
) -> AsyncOutputQueue:
    """Requests of token ids, and the queue for their outputs."""
    listed = [Prompt(token_ids=tuple(prompt)) for prompt in prompts]
    requests = new_factory().create_all(listed, [SamplingParams(**params)] * len(listed))
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return AsyncOutputQueue(requests, Waker(asyncio.get_running_loop()), deadline=deadline)


async def begun(served: EngineClient | Supervisor, engine: EngineThread, **params: Any) -> AsyncOutputQueue:
    """The queue of a request that runs, with many slow steps before it: its first output was
    taken."""
    engine.engine.executor.step_s = SLOW_STEP_S
    queue = new_queue(max_tokens=50, **params)
    served.submit(queue)
    assert await queue.take()
    return queue


async def outputs_of(queue: AsyncOutputQueue) -> list[SequenceOutput]:
    """Everything that comes until the end."""
    outputs = []
    while several := await queue.take():
        outputs += several
    return outputs


async def until(holds: Callable[[], bool]) -> None:
    """Waits for something that another thread brings about; the test's own bound ends it."""
    while not holds():
        await asyncio.sleep(0.001)
