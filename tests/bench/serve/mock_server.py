"""A server that answers as a test says, chunk by chunk, and a clock that nobody waits for."""

import asyncio
import contextlib
import json
import selectors
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

GRACE_S = 0.01  # what a loopback socket needs at most
NUM_OWN_SOCKETS = 1  # that an event loop has for itself, to be woken by
OK, SSE = "200 OK", {"Content-Type": "text/event-stream"}


@dataclass(frozen=True)
class Reply:
    """What a request gets: pieces of the body, each with the seconds before it."""

    pieces: tuple[tuple[float, bytes], ...] = ()
    status: str = OK
    headers: dict[str, str] = field(default_factory=lambda: dict(SSE))
    is_whole: bool = True  # False: the connection ends in the middle


def event(value: Any) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def text_chunk(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]})


def delta_chunk(delta: dict, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def usage_chunk(num_prompt: int, num_output: int, num_cached: int = 0) -> bytes:
    details = {"cached_tokens": num_cached}
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_output, "prompt_tokens_details": details}
    return event({"choices": [], "usage": usage})


DONE = event(b"[DONE]")


def reply(body: dict, *, first_s: float = 0.1, gap_s: float = 0.01, words: tuple[str, ...] | None = None):
    """A whole answer to a request, of max_tokens words: the first after `first_s`, others after `gap_s`."""
    words = words or tuple(f" {place}" for place in range(body["max_tokens"]))
    is_chat = "messages" in body
    asked = body["messages"] if is_chat else body["prompt"]
    chunks = [delta_chunk({"content": word}) if is_chat else text_chunk(word) for word in words]
    end = (delta_chunk({}, "length") if is_chat else text_chunk("", "length")) + usage_chunk(
        len(asked), len(words)
    )
    delays = [first_s, *[gap_s] * (len(words) - 1)]
    return Reply((*zip(delays, chunks, strict=True), (0, end + DONE)))


class MockServer:
    """Answers requests by `answer`, and remembers their bodies with the time they came."""

    def __init__(self, answer: Callable[[dict], Reply] = reply) -> None:
        self.answer, self.bodies, self.times_s, self.headers = answer, [], [], []
        self.paths: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._serve_one(reader, writer):
                pass
        writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        method, path, _ = head[0].split()
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            return await self._write(writer, self._about(path))
        self.bodies.append(json.loads(content))
        self.times_s.append(asyncio.get_running_loop().time())
        self.headers.append(headers)
        self.paths.append(path)
        return await self._write(writer, self.answer(self.bodies[-1]))

    def _about(self, path: str) -> Reply:
        known = {"/v1/models": {"data": [{"id": "Mock-Model-1B"}]}, "/version": {"version": "1.2.3"}}
        content = json.dumps(known[path]).encode()
        return Reply(((0, content),), headers={"Content-Type": "application/json"})

    async def _write(self, writer: asyncio.StreamWriter, answer: Reply) -> bool:
        headers = {**answer.headers, "Transfer-Encoding": "chunked"}
        lines = [f"HTTP/1.1 {answer.status}", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for delay_s, piece in answer.pieces:
            await asyncio.sleep(delay_s)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if not answer.is_whole:
            writer.transport.abort()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def running(server: MockServer) -> AsyncIterator[str]:
    """The server in this event loop, and its URL."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@contextlib.contextmanager
def in_thread(server: MockServer) -> Iterator[str]:
    """The server in a thread of its own, on the real clock, for what runs an event loop itself."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        listening = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(server.serve, "127.0.0.1", 0), loop
        ).result()
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        asyncio.run_coroutine_threadsafe(_close(listening), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(listening: asyncio.Server) -> None:
    listening.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on only when nothing else is left to do, and then at once."""

    def __init__(self) -> None:
        self._now_s = 1000.0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        self._now_s += seconds


class _VirtualSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None):
        if timeout is None:
            return super().select(None)
        ready = super().select(GRACE_S if timeout > 0 and len(self.get_map()) > NUM_OWN_SOCKETS else 0)
        if not ready and timeout > 0:
            self._loop.advance(timeout)
        return ready


def run_virtually(coroutine: Coroutine) -> Any:
    """Runs a coroutine on a virtual clock."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(coroutine)
