"""What a request leaves to the garbage collector: nothing, in the front and in the engine.

The processes of a server collect rarely: what only a collection frees stays for minutes, and is their growth.
"""

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from jinfer.requests.request import Request, Sequence
from jinfer.server.assembly import build_app
from jinfer.server.engine_outbox import WireQueue
from jinfer.server.errors import ClientLeftError
from jinfer.server.generation import Generation
from jinfer.server.generation_service import GenerationService
from jinfer.server.http_server import HttpServer, bind
from jinfer.server.limits import ServerLimits
from jinfer.server.options import ServerOptions
from tests.server.fakes import SLOW_STEP_S, EngineThread, FallibleDevice, connected, new_engine, run, until

OF_A_REQUEST = (Request, Sequence, Generation, WireQueue, ClientLeftError, RequestResponseCycle)
PROMPT = {"prompt": [1, 2, 3], "max_tokens": 4}
LONG = {"prompt": [1, 2, 3], "max_tokens": 50}
ANSWERED = (
    (200, PROMPT),
    (200, {**PROMPT, "stream": True}),
    (200, {**PROMPT, "n": 2, "seed": 1, "logprobs": 1}),
    (200, {**PROMPT, "prompt": [[1, 2], [3]]}),
    (200, {**PROMPT, "max_tokens": 0}),
    (400, {**PROMPT, "temperature": -1}),
)
Use = Callable[[int, GenerationService], Coroutine[Any, Any, None]]


def test_an_answered_request_is_freed_at_once():
    async def use(port: int, service: GenerationService) -> None:
        for status, body in ANSWERED:
            reader, writer = await sent(port, body)
            answer = await reader.read()
            writer.close()
            assert answer.startswith(b"HTTP/1.1 %d " % status)

    assert num_kept_by(use) == {}


def test_a_request_whose_client_left_is_freed_at_once():
    async def use(port: int, service: GenerationService) -> None:
        for streams in (True, False):
            reader, writer = await sent(port, LONG | {"stream": streams})
            await until(lambda: service.num_active == 1)
            if streams:
                await reader.readuntil(b"data: ")
            writer.transport.abort()
            await until(lambda: service.num_active == 0)

    assert num_kept_by(use, step_s=SLOW_STEP_S) == {}


def num_kept_by(use: Use, *, step_s: float = 0.0) -> Counter[str]:
    """Lets `use` send requests to a server, and counts what is left of them when the server has ended."""
    gc.collect()
    gc.disable()
    try:
        before = alive()  # referred to, so that no other object gets one's id
        run(served(use, step_s))
        known = set(map(id, before))
        return Counter(type(each).__name__ for each in alive() if id(each) not in known)
    finally:
        gc.enable()


def alive() -> list[Any]:
    return [each for each in gc.get_objects() if issubclass(type(each), OF_A_REQUEST)]


async def served(use: Use, step_s: float) -> None:
    """Calls `use` with the port of a server whose engine is at the other end of a connection."""
    engine = EngineThread(new_engine(FallibleDevice))
    engine.engine.executor.step_s = step_s
    client = await connected(engine)
    app, service = build_app(client, ServerOptions(grace_s=0), ServerLimits())
    server = HttpServer(app, service, limits=ServerLimits(), grace_s=0)
    with bind("127.0.0.1", 0) as bound:
        started = asyncio.Event()
        serving = asyncio.create_task(server.serve([bound], when_started=started.set))
        await started.wait()
        await use(bound.getsockname()[1], service)
        server.end()
        await serving
    await client.close()
    engine.join()


async def sent(port: int, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a request was sent that is its last."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    head += b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
    writer.write(head + content)
    return reader, writer
