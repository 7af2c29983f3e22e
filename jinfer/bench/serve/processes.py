"""A load from one process or from several, which divide its conversations among them.

`python -m jinfer.bench.serve.processes` is one of several. It reads its part of a job as a line of JSON from
stdin, says "ready", reads the time at which to begin, and writes lines of JSON: how far it is, then its
records, then how it ended. It ends early when stdin is closed, so that it does not outlive its parent.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from typing import Any

from jinfer.bench.serve.job import LoadJob, LoadOutcome
from jinfer.bench.serve.load import LoadError, LoadPart, Tally
from jinfer.bench.serve.part import Show, run_part
from jinfer.bench.serve.records import RequestRecord

LEAD_S = 0.2  # from telling the processes when to begin to when they do
MAX_LINE_BYTES = 1 << 28
MODULE = "jinfer.bench.serve.processes"


async def run_load(job: LoadJob, num_processes: int, show: Show) -> LoadOutcome:
    """Makes a load, and tells `show` once a second how far it is. When it is cancelled, it ends early with
    what there is by then. Raises LoadError where a process dies."""
    if num_processes == 1:
        return await run_part(job, LoadPart(), _now, show)
    async with contextlib.AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(_child(job, LoadPart(index, num_processes)))
            for index in range(num_processes)
        ]
        await asyncio.gather(*[_next_line(child, "ready") for child in children])
        start_s = await _now() + LEAD_S
        tallies = [Tally()] * num_processes

        def show_all(index: int, elapsed_s: float, tally: Tally) -> None:
            tallies[index] = tally
            if index == 0:
                show(elapsed_s, sum(tallies, Tally()))

        for child in children:
            await _tell(child, start_s)
        reading = asyncio.gather(
            *[_outcome(child, functools.partial(show_all, index)) for index, child in enumerate(children)]
        )
        return _joined(await _until_cancelled(reading, children))


async def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until_cancelled(reading: asyncio.Future, children: list[Process]) -> list[LoadOutcome]:
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        return await reading


def _joined(outcomes: list[LoadOutcome]) -> LoadOutcome:
    return LoadOutcome(
        [record for outcome in outcomes for record in outcome.records],
        max(outcome.cpu_share for outcome in outcomes),
        [lag_s for outcome in outcomes for lag_s in outcome.lags_s],
        any(outcome.was_interrupted for outcome in outcomes),
    )


@contextlib.asynccontextmanager
async def _child(job: LoadJob, part: LoadPart) -> AsyncIterator[Process]:
    """A process in a session of its own, so that Ctrl-C reaches it through this one."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", MODULE),
        stdin=PIPE,
        stdout=PIPE,
        limit=MAX_LINE_BYTES,
        start_new_session=True,
    )
    try:
        await _tell(child, {"job": job.line(), "part": dataclasses.asdict(part)})
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await child.wait()


async def _tell(child: Process, message: Any) -> None:
    assert child.stdin is not None
    with contextlib.suppress(ConnectionError):  # it has died; who reads from it next says so
        child.stdin.write(json.dumps(message).encode() + b"\n")
        await child.stdin.drain()


async def _next_line(child: Process, *names: str) -> Mapping[str, Any]:
    """The next message of a child, which has one of the names."""
    assert child.stdout is not None
    line = await child.stdout.readline()
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict) and not message.keys().isdisjoint(names):
            return message
    raise LoadError(
        f"a process of the load ended early, after {line[:200]!r}; what it said of that is on stderr above"
    )


async def _outcome(child: Process, show: Show) -> LoadOutcome:
    records: list[RequestRecord] = []
    while True:
        message = await _next_line(child, "tally", "record", "end")
        if "tally" in message:
            show(message["elapsed_s"], Tally(**message["tally"]))
        elif "record" in message:
            records.append(RequestRecord.of_line(message["record"]))
        else:
            return LoadOutcome(records, **message["end"])


async def work() -> None:
    """Makes the part of a load that stdin says."""
    stdin = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    request = json.loads(await stdin.readline())
    job, part = LoadJob.of_line(request["job"]), LoadPart(**request["part"])

    async def wait_for_start() -> float:
        _say({"ready": True})
        start_s = float(json.loads(await stdin.readline()))
        asyncio.create_task(stdin.read()).add_done_callback(lambda _: running.cancel())
        return start_s

    def show(elapsed_s: float, tally: Tally) -> None:
        _say({"elapsed_s": elapsed_s, "tally": dataclasses.asdict(tally)})

    running = asyncio.create_task(run_part(job, part, wait_for_start, show))
    outcome = await running
    for record in outcome.records:
        _say({"record": record.line()})
    _say({"end": {name: getattr(outcome, name) for name in ("cpu_share", "lags_s", "was_interrupted")}})


def _say(message: Mapping[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    asyncio.run(work())
