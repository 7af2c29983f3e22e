"""A part of a load as one process makes it, and what goes before it."""

import asyncio
import contextlib
import gc
import resource
import time
from collections.abc import Awaitable, Callable, Iterator

from jinfer.bench.serve.answers import Answer, AnswerError
from jinfer.bench.serve.bodies import PATHS
from jinfer.bench.serve.client import Client, open_client
from jinfer.bench.serve.job import LoadJob, LoadOutcome
from jinfer.bench.serve.load import Load, LoadError, LoadPart, Tally

SHOW_INTERVAL_S, LAG_INTERVAL_S = 1.0, 0.02

Show = Callable[[float, Tally], None]  # seconds since the load began, and how far it is


def job_client(job: LoadJob) -> contextlib.AbstractAsyncContextManager[Client]:
    """A client of the server that a job asks."""
    return open_client(job.url, job.timeout_s, job.headers())


async def run_part(
    job: LoadJob,
    part: LoadPart,
    wait_for_start: Callable[[], Awaitable[float]],
    show: Show,
) -> LoadOutcome:
    """Makes a part of a load, and tells `show` once a second how far it is.

    `wait_for_start` gives the time of the event loop at which the load begins. A load that is cancelled ends
    early, with what there is by then.
    """
    conversations, was_interrupted = job.conversations(), False
    async with job_client(job) as client:

        async def ask(body: bytes, answer: Answer) -> None:
            await client.ask(PATHS[job.endpoint], body, answer)

        load = Load(conversations, job.plan, job.body, ask, part)
        with _ready_for_load():
            start_s = await wait_for_start()
            lags_s: list[float] = []
            beside = [
                asyncio.create_task(_keep_showing(start_s, load.tally, show)),
                asyncio.create_task(_keep_measuring_lag(lags_s)),
            ]
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            try:
                await load.run(start_s)
            except asyncio.CancelledError:
                was_interrupted = True
                _stop_being_cancelled()
            finally:
                for task in beside:
                    task.cancel()
            cpu_share = (time.process_time() - cpu_s) / max(time.perf_counter() - wall_s, 1e-9)
    return LoadOutcome(load.records, cpu_share, lags_s, was_interrupted)


async def warm_up(job: LoadJob, client: Client, num_requests: int) -> None:
    """Sends first turns that the load does not begin with, one after another. Raises LoadError where one
    fails."""
    conversations = job.conversations()
    for number in range(num_requests):
        try:
            body = job.body(conversations.get(-1 - number), ())
            await client.ask(PATHS[job.endpoint], body, Answer())
        except AnswerError as error:
            raise LoadError(
                f"a request to warm up {job.url} failed ({error}), and others would; mend that, or begin "
                "without one: --warm-up 0"
            ) from error


async def _keep_measuring_lag(lags_s: list[float]) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due_s = clock() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        lags_s.append(max(0.0, clock() - due_s))


def _stop_being_cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


async def _keep_showing(start_s: float, tally: Tally, show: Show) -> None:
    while True:
        await asyncio.sleep(SHOW_INTERVAL_S)
        show(asyncio.get_running_loop().time() - start_s, tally)


@contextlib.contextmanager
def _ready_for_load() -> Iterator[None]:
    """Allows as many sockets as the system does, and keeps the garbage collector from what was there before:
    searching that would stop every stream for some 0.1 s."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
