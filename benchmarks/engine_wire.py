"""What a step costs on its way from the engine process to the tasks of the front, in microseconds.

    python -m benchmarks.engine_wire --rows 256

Prints a line of JSON for one step in which each row has a token: `outbox` gathers it in the engine process,
`encode` and `decode` are the message's, `apply` gives it to the output queues of the front (a queue a row),
and `bytes` is the message's size. All are the least of several runs, in microseconds of this process's time.

    python -m benchmarks.engine_wire --busy 0.6

adds the time between two steps, in milliseconds, of an engine whose device takes `--device-ms`, beside a
front that is busy with Python for this share of its time: `in_thread` has both in one process, `in_process`
each in its own. No model, no GPU.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.config import EngineLimits
from jinfer.engine.engine import Engine
from jinfer.engine.loop import EngineLoop
from jinfer.engine.stats import Counters
from jinfer.engine.steps import StepOutput
from jinfer.requests.prompts import Prompt
from jinfer.requests.request import append_token
from jinfer.requests.request_factory import RequestFactory
from jinfer.requests.request_rules import RulesFactory
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.scheduler import Scheduler
from jinfer.scheduling.step_plan import StepPlan
from jinfer.server.engine_client import EngineClient
from jinfer.server.engine_outbox import EngineOutbox, WireQueue
from jinfer.server.engine_process import StartedEngine, serve
from jinfer.server.local_engine import LocalEngine
from jinfer.server.served_engine import ModelInfo, ServedEngine
from jinfer.server.submissions import Submissions
from jinfer.server.waiting_line import QueueLimits
from jinfer.server.wire import EngineSpec, Step, decode_for_front, encode

VOCAB_SIZE, CONTEXT, TOKEN_ID = 150_000, 4096, 123_456
RULES = RulesFactory(None, vocab_size=VOCAB_SIZE, eos_token_ids=())
REPEATS, CALLS, NUM_TOKENS = 15, 40, 400


class SleepingDevice:
    """Each step takes a time in which Python may do other things, and samples one and the same token."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s

    def dispatch(self, plan: StepPlan) -> int:
        """The handle is the number of rows."""
        return plan.num_rows

    def read(self, handle: int, logprob_rows: Any) -> StepOutput:
        """Waits as for a device."""
        time.sleep(self._step_s)
        return StepOutput(token_ids=[TOKEN_ID] * handle, logprobs={}, wait_s=self._step_s)

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to give back."""


def limits_of(rows: int) -> EngineLimits:
    """Room for every row to the end of its context."""
    return EngineLimits(
        page_size=16,
        num_pages=rows * CONTEXT // 16 + 1,
        max_num_seqs=rows,
        max_num_batched_tokens=4096,
        max_model_len=CONTEXT,
    )


def new_engine(rows: int, step_s: float) -> Engine:
    """An engine whose device sleeps."""
    return Engine(Scheduler(limits_of(rows), Counters()), SleepingDevice(step_s))


def new_queues(rows: int, max_tokens: int) -> list[AsyncOutputQueue]:
    """A request a queue, as a server has them."""
    factory = RequestFactory(
        tokenizer=None,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=frozenset(),
        sampling_defaults={},
        limits=limits_of(rows),
    )
    waker, params = Waker(asyncio.get_running_loop()), SamplingParams(max_tokens=max_tokens)
    prompt = Prompt(token_ids=(1, 2, 3))
    return [AsyncOutputQueue([factory.create(prompt, params)], waker, deadline=None) for _ in range(rows)]


def least_us(function: Callable[[], Any]) -> float:
    """Microseconds of a call, the least of several rounds."""
    rounds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(CALLS):
            function()
        rounds.append((time.perf_counter() - began) / CALLS * 1e6)
    return round(min(rounds), 1)


async def least_apply_us(submissions: Submissions, step: Step, queues: list[AsyncOutputQueue]) -> float:
    """Microseconds of giving a step to queues that are emptied before the next."""
    rounds = []
    for _ in range(REPEATS * CALLS):
        began = time.perf_counter()
        submissions.apply(step)
        rounds.append((time.perf_counter() - began) * 1e6)
        await asyncio.sleep(0)
        for queue in queues:
            list(queue.take_all())
    return round(min(rounds), 1)


async def measure(rows: int) -> dict[str, float]:
    """The parts of one step's way."""
    queues = new_queues(rows, CONTEXT - 8)
    outbox = EngineOutbox(new_engine(rows, 0.0), clock=lambda: 0.0)
    outbox._engine.add(queues[0].requests[0])  # so that it has work, and no figures are due
    wire_queues = [
        WireQueue(i, {queue.requests[0]: i + 10**6}, outbox, deadline=None, when_over=lambda _: None)
        for i, queue in enumerate(queues)
    ]
    outputs = [append_token(queue.requests[0].sequences[0], TOKEN_ID) for queue in queues]

    def gather() -> Step:
        for queue, output in zip(wire_queues, outputs, strict=True):
            queue.put(output)
        (step,) = outbox.take()
        return step

    step = gather()
    message = encode(step)
    submissions = Submissions(QueueLimits())
    for queue in queues:
        submissions.add(queue)
    step.keys[:] = range(rows)
    return {
        "outbox": least_us(gather),
        "encode": least_us(lambda: encode(step)),
        "decode": least_us(lambda: decode_for_front(message)),
        "apply": await least_apply_us(submissions, step, queues),
        "bytes": len(message),
    }


async def keep_busy(share: float) -> None:
    """Takes a share of the event loop's time, a millisecond at a time, as many small callbacks do."""
    while True:
        ends = time.perf_counter() + 1e-3
        while time.perf_counter() < ends:
            pass
        await asyncio.sleep(1e-3 * (1 - share) / share)


async def step_ms(engine: ServedEngine, rows: int, busy: float) -> float:
    """The mean time between two steps while a front takes their tokens."""
    spinning = asyncio.create_task(keep_busy(busy))
    queues = new_queues(rows, NUM_TOKENS)
    began = time.perf_counter()
    for queue in queues:
        engine.submit(queue)
    await asyncio.gather(*map(taken, queues))
    elapsed_s = time.perf_counter() - began
    spinning.cancel()
    return round(elapsed_s / NUM_TOKENS * 1e3, 2)


async def taken(queue: AsyncOutputQueue) -> None:
    """Takes everything."""
    while await queue.take():
        pass


async def measure_beside(rows: int, device_ms: float, busy: float) -> dict[str, float]:
    """The same engine in a thread of the front, and in a process of its own."""
    engine = new_engine(rows, device_ms / 1e3)
    loop = EngineLoop(engine, lambda: None)
    loop.start()
    in_thread = [await step_ms(LocalEngine(loop, engine, info_of(rows), RULES), rows, busy) for _ in range(3)]
    loop.close()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    command = [sys.executable, "-m", "benchmarks.engine_wire", "--rows", str(rows)]
    child = [*command, "--device-ms", str(device_ms), "--fd", str(theirs.fileno())]
    with subprocess.Popen(child, pass_fds=[theirs.fileno()]), theirs:
        client = EngineClient(None, QueueLimits(), lambda line: None)
        await client.connect(ours, EngineSpec())
        theirs.close()
        in_process = [await step_ms(client, rows, busy) for _ in range(3)]
        await client.close()
    return {"in_thread": statistics.median(in_thread), "in_process": statistics.median(in_process)}


def info_of(rows: int) -> ModelInfo:
    """Facts of a model that there is not."""
    return ModelInfo("none", "none", VOCAB_SIZE, (), {}, None, limits_of(rows), "", "")


def main() -> None:
    """Measures one number of rows; or is the other process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--busy", type=float, metavar="SHARE")
    parser.add_argument("--device-ms", type=float, default=3.0)
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fd is not None:
        started = StartedEngine(
            new_engine(options.rows, options.device_ms / 1e3), info_of(options.rows), RULES, lambda: None
        )
        connection = socket.socket(fileno=options.fd)
        sys.exit(serve(connection, lambda _: started, exit_now=lambda: os._exit(1)))
    results = asyncio.run(measure(options.rows))
    if options.busy is not None:
        results |= asyncio.run(measure_beside(options.rows, options.device_ms, options.busy))
    print(json.dumps({"rows": options.rows, **results}))


if __name__ == "__main__":
    main()
