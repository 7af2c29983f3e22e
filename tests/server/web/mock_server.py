"""A server that speaks the routes that the page uses, and answers what the test wrote down."""

import contextlib
import json
import queue
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from jinfer.server.routes.web import web_router

WAIT_S = 120  # nothing takes so long that does not hang
USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
METRICS = """# HELP jinfer:num_requests_running Sequences that run.
jinfer:num_requests_running{model_name="m"} 3.0
jinfer:num_requests_waiting{model_name="m"} 2.0
jinfer:kv_cache_usage_perc{model_name="m"} 0.25
jinfer:generation_tokens_total{model_name="m"} 1000.0
jinfer:prefix_cache_queries_total{model_name="m"} 100.0
jinfer:prefix_cache_hits_total{model_name="m"} 10.0
"""


class Gate:
    """A place in a stream that a test opens."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    async def passed(self) -> None:
        for _ in range(WAIT_S * 100):
            if self._event.is_set():
                return
            await anyio.sleep(0.01)  # and not a thread, which a client who leaves would not end


class Cut:
    """The end of a connection in the middle of a stream."""


Step = Mapping[str, Any] | Gate | Cut


@dataclass
class MockServer:
    """What the next answers are, and what came in."""

    url: str = ""
    model: dict[str, Any] = field(
        default_factory=lambda: {"id": "mock-model", "max_model_len": 512, "has_chat_template": True}
    )
    key: str | None = None
    metrics: str = METRICS
    answers: list[Sequence[Step]] = field(default_factory=list)
    refusals: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    bodies: "queue.Queue[tuple[str, dict[str, Any]]]" = field(default_factory=queue.Queue)
    left: threading.Event = field(default_factory=threading.Event)

    def next_body(self) -> tuple[str, dict[str, Any]]:
        """The path and the body of the request that came next, once it is there."""
        return self.bodies.get(timeout=WAIT_S)

    def app(self) -> FastAPI:
        app = FastAPI()
        app.include_router(web_router())
        app.add_api_route("/v1/models", self._models)
        app.add_api_route("/metrics", self._metrics)
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.add_api_route(path, self._answer, methods=["POST"], response_model=None)
        return app

    async def _models(self, request: Request) -> Response:
        return self._unauthorized(request) or JSONResponse({"data": [self.model]})

    async def _metrics(self, request: Request) -> Response:
        return self._unauthorized(request) or PlainTextResponse(self.metrics)

    async def _answer(self, request: Request) -> Response:
        refused = self._unauthorized(request)
        if refused is not None:
            return refused
        self.bodies.put((request.url.path, await request.json()))
        if self.refusals:
            status, error = self.refusals.pop(0)
            return JSONResponse({"error": error}, status_code=status, headers={"retry-after": "7"})
        return StreamingResponse(self._events(self.answers.pop(0)), media_type="text/event-stream")

    async def _events(self, steps: Sequence[Step]) -> AsyncIterator[str]:
        is_complete = False
        try:
            for step in steps:
                if isinstance(step, Gate):
                    await step.passed()
                elif isinstance(step, Cut):
                    return
                else:
                    yield f"data: {json.dumps(step)}\n\n"
            is_complete = True
            yield "data: [DONE]\n\n"
        finally:
            if not is_complete:
                self.left.set()

    def _unauthorized(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": {"message": "no key was given"}}, status_code=401)


def says(text: str, **fields: Any) -> dict[str, Any]:
    """A chunk of a chat."""
    return {"choices": [{"index": 0, "delta": {"content": text, **fields}, "finish_reason": None}]}


def thinks(text: str) -> dict[str, Any]:
    """A chunk of reasoning."""
    return {"choices": [{"index": 0, "delta": {"reasoning": text}, "finish_reason": None}]}


def continues(text: str) -> dict[str, Any]:
    """A chunk of a completion."""
    return {"choices": [{"index": 0, "text": text, "finish_reason": None}]}


def ends(reason: str = "stop") -> list[dict[str, Any]]:
    """The last chunks of an answer."""
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return [last, {"choices": [], "usage": USAGE}]


@contextlib.contextmanager
def running_mock() -> Iterator[MockServer]:
    """Serves on a free port until the block ends."""
    mock = MockServer()
    config = uvicorn.Config(mock.app(), port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    pause = threading.Event()
    while not server.started and thread.is_alive():
        pause.wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    mock.url = f"http://127.0.0.1:{port}/"
    try:
        yield mock
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
