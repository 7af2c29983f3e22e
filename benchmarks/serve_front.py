"""What the HTTP front costs: a server whose engine is a stand-in that gives each stream tokens at one rate.

    python -m benchmarks.serve_front --streams 1000 --rate 20 --tokens 200

Prints a line of JSON. `user_us_per_chunk` is the CPU time of the server's process per chunk, detokenizing
included, `system_us_per_chunk` that of the system in its name, which writes to sockets, and the lateness of a
chunk is the time from the stand-in's step to the client's read. The client is a process of its own and wants
a core to itself. `--results FILE` gets a line whose value is the lateness that 99% of the chunks stay below,
and whose percentage of the limit is the share that came before the next token.
"""

import argparse
import asyncio
import bisect
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import uvloop

import jinfer
from benchmarks.record import Line, append, circumstances
from jinfer.async_queue import AsyncOutputQueue
from jinfer.bench.json_lines import command_text
from jinfer.config import EngineLimits
from jinfer.engine.stats import EngineStats
from jinfer.requests.request import FinishReason, Sequence, SequenceOutput
from jinfer.server.assembly import build_server
from jinfer.server.garbage import collect_rarely
from jinfer.server.http_server import bind
from jinfer.server.limits import ServerLimits
from jinfer.server.options import ServerOptions
from jinfer.server.served_engine import ModelInfo

COMMAND = ("python", "-m", "benchmarks.serve_front")
MAX_STREAMS = 8192
VOCAB_SIZE = 4096
INFO = ModelInfo(
    architecture="StandIn",
    dtype="float32",
    vocab_size=VOCAB_SIZE,
    eos_token_ids=(0,),
    sampling_defaults={},
    tokenizer_directory=str(Path(jinfer.__file__).parent / "demo_model"),
    limits=EngineLimits(
        page_size=16,
        num_pages=10**6,
        max_num_seqs=MAX_STREAMS,
        max_num_batched_tokens=4096,
        max_model_len=8192,
    ),
    memory="none",
    device="none",
)


class SteadyEngine:
    """A `ServedEngine` whose `run` gives each sequence a random token in every step."""

    info = INFO

    def __init__(self, rate: float) -> None:
        """`rate` is steps per second."""
        self._period_s = 1 / rate
        self._running: dict[Sequence, AsyncOutputQueue] = {}
        self._token_ids = [random.randrange(300, VOCAB_SIZE) for _ in range(10_007)]
        self.step_times: list[float] = []
        self.first_steps: dict[int, int] = {}
        """By the seed of a request: the step that gave its first token."""
        self.num_chunks = 0
        self.cpu_began: os.times_result | None = None  # of the process, at the first token

    def check_open(self) -> None:
        """Always."""

    def submit(self, queue: AsyncOutputQueue) -> None:
        """Runs it from the next step on."""
        for request in queue.requests:
            self.first_steps[request.params.seed or 0] = len(self.step_times)
            self._running |= dict.fromkeys(request.sequences, queue)

    def abandon(self, queue: AsyncOutputQueue) -> None:
        """Stops it, and lets go of it as an `EngineClient` does."""
        for request in queue.requests:
            for sequence in request.sequences:
                self._running.pop(sequence, None)
        queue.drop_sequences()

    def stats(self) -> EngineStats:
        """Nothing but what runs."""
        return EngineStats(len(self._running), 0, 0, 0, 1, 0, 0, 0, 0)

    async def heartbeat(self) -> float:
        """At once."""
        return 0.0

    async def run(self) -> None:
        """Steps at the rate, as long as the loop keeps up."""
        due = time.monotonic()
        while True:
            due = max(due + self._period_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
            self._step()

    def _step(self) -> None:
        self.step_times.append(time.monotonic())
        if self._running and self.cpu_began is None:
            self.cpu_began = os.times()
        self.num_chunks += len(self._running)
        for place, (sequence, queue) in enumerate(tuple(self._running.items())):
            token_id = self._token_ids[(place + 31 * len(self.step_times)) % len(self._token_ids)]
            sequence.token_ids.append(token_id)
            is_last = len(sequence.token_ids) >= sequence.max_total_tokens
            end = FinishReason.LENGTH if is_last else None
            if is_last:
                sequence.finish_reason = end
                del self._running[sequence]
            queue.put(SequenceOutput(sequence, token_id, None, end))


async def serve(rate: float) -> None:
    """Serves until SIGTERM. The port, once it is listened to, is the first line of stdout, and what was
    measured the last."""
    engine = SteadyEngine(rate)
    bound = bind("127.0.0.1", 0)
    limits = ServerLimits(max_requests_per_client=MAX_STREAMS)
    server = build_server(engine, ServerOptions(grace_s=0), limits)
    port = bound.getsockname()[1]
    stepping = asyncio.create_task(engine.run())
    collect_rarely()  # as `jinfer serve` does
    await server.serve([bound], when_started=lambda: print(port, flush=True))
    stepping.cancel()
    began, ended = engine.cpu_began or os.times(), os.times()
    measured = {
        "step_times": engine.step_times,
        "first_steps": engine.first_steps,
        "num_chunks": engine.num_chunks,
        "user_s": ended.user - began.user,
        "system_s": ended.system - began.system,
    }
    print(json.dumps(measured), flush=True)


async def read_stream(port: int, seed: int, num_tokens: int) -> list[float]:
    """The times at which the chunks of one stream were read."""
    body = {"prompt": [5, 6, 7], "stream": True, "max_tokens": num_tokens, "seed": seed}
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    writer.write(head + b"content-length: %d\r\n\r\n" % len(content) + content)
    times: list[float] = []
    tail = b""
    while b"[DONE]" not in tail:
        part = await reader.read(65536)
        if not part:
            raise ConnectionError(f"stream {seed} ended after {len(times)} chunks: {tail!r}")
        # a frame's first bytes may come in the part before
        times += [time.monotonic()] * ((tail[-12:] + part).count(b"choices") - tail[-12:].count(b"choices"))
        tail = (tail + part)[-64:]
    writer.close()
    return times


async def read_all(port: int, num_streams: int, num_tokens: int) -> list[list[float]]:
    """All streams at the same time."""
    return await asyncio.gather(*(read_stream(port, seed, num_tokens) for seed in range(num_streams)))


def measured(num_streams: int, rate: float, num_tokens: int) -> dict[str, float]:
    """Runs server and client, and gives the figures."""
    command = [sys.executable, "-m", "benchmarks.serve_front", "--server", "--rate", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        try:
            streams = uvloop.run(read_all(port, num_streams, num_tokens))
        finally:
            server.terminate()
            told = json.loads(server.stdout.readline())
    lateness = sorted(
        read - told["step_times"][told["first_steps"][str(seed)] + place]
        for seed, times in enumerate(streams)
        for place, read in enumerate(times)
    )
    return {
        "streams": num_streams,
        "tokens_per_s": num_streams * rate,
        "chunks": len(lateness),
        "user_us_per_chunk": round(told["user_s"] / told["num_chunks"] * 1e6, 1),
        "system_us_per_chunk": round(told["system_s"] / told["num_chunks"] * 1e6, 1),
        "p50_lateness_ms": round(lateness[len(lateness) // 2] * 1e3, 1),
        "p99_lateness_ms": round(lateness[len(lateness) * 99 // 100] * 1e3, 1),
        "max_lateness_ms": round(lateness[-1] * 1e3, 1),
        "on_time_percent": round(100 * bisect.bisect(lateness, 1 / rate) / len(lateness), 1),
    }


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20.0, help="tokens per second of a stream")
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: nothing is recorded")
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server:
        uvloop.run(serve(options.rate))
    else:
        figures = measured(options.streams, options.rate, options.tokens)
        print(json.dumps(figures))
        if options.results is not None:
            append(options.results, [recorded_line(figures)])


def recorded_line(figures: dict[str, float]) -> Line:
    """The line that is kept."""
    return {
        "id": "serve-streams",
        "value": figures["p99_lateness_ms"],
        "unit": "ms",
        "limit": 0,
        "percent_of_limit": figures["on_time_percent"],
        **circumstances(
            command_text(["python", "-m", "benchmarks.serve_front", *sys.argv[1:]], outputs=("--results",))
        ),
        "details": figures,
    }


if __name__ == "__main__":
    main()
