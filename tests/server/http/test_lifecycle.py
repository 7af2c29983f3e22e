"""Clients that leave or read slowly, engines that fail, and the end of a server."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from jinfer import EngineError, OverloadedError
from jinfer.requests.request import FinishReason
from jinfer.server.assembly import build_server
from jinfer.server.http_server import bind
from jinfer.server.limits import ServerLimits
from jinfer.server.options import ServerOptions
from tests.server.http.running_server import RunningServer, running_server
from tests.server.http.scripted_engine import WAIT_S, ScriptedEngine

BODY = {"prompt": "a", "max_tokens": 50_000}
STREAM = {**BODY, "stream": True}
TOKENS = [300, 301, 302]
LIMITS = ServerLimits(max_requests_per_client=3)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def running(engine: ScriptedEngine) -> Iterator[RunningServer]:
    with running_server(engine, limits=LIMITS) as running:
        yield running


@pytest.fixture
def http(running: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=WAIT_S) as client:
        yield client


def raw_post(address: tuple[str, int], body: dict) -> socket.socket:
    content = json.dumps(body).encode()
    connection = socket.create_connection(address, timeout=WAIT_S)
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    connection.sendall(head + b"content-length: %d\r\n\r\n" % len(content) + content)
    return connection


def in_thread(work):
    """Starts a function; the result's `join_result` waits for what it gives."""
    results: list = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def join_result():
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the server does not answer"
        return results[0]

    return join_result


def test_a_server_says_that_it_has_started_when_it_takes_connections(engine):
    def connect() -> None:
        socket.create_connection(bound.getsockname(), timeout=WAIT_S).close()
        server.end()

    bound, server = bind("127.0.0.1", 0), build_server(engine, ServerOptions(grace_s=0), LIMITS)
    asyncio.run(server.serve([bound], when_started=connect))
    assert server.should_exit


def test_a_client_that_leaves_amid_a_stream_aborts_its_request(engine, running):
    connection = raw_post(running.address, STREAM)
    queue = engine.next_queue()
    engine.emit(queue, TOKENS)
    assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    connection.close()
    engine.wait_abandoned(queue)


def test_a_client_that_leaves_before_its_answer_aborts_its_request(engine, running):
    connection = raw_post(running.address, BODY)
    queue = engine.next_queue()
    connection.close()
    engine.wait_abandoned(queue)


def test_half_a_connection_is_none(engine, running):
    connection = raw_post(running.address, BODY)
    queue = engine.next_queue()
    connection.shutdown(socket.SHUT_WR)
    engine.wait_abandoned(queue)
    connection.close()


def test_a_reader_that_stops_reading_is_dropped(engine):
    with running_server(engine, limits=ServerLimits(max_stalled_s=1)) as running:
        connection = raw_post(running.address, STREAM)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        queue = engine.next_queue()
        engine.emit(queue, [300] * 40_000)  # some 8 MB of events
        engine.wait_abandoned(queue)
        connection.close()


def test_a_stream_goes_on_while_the_client_reads(engine, http):
    result = in_thread(lambda: http.post("/v1/completions", json=STREAM).text)
    queue = engine.next_queue()
    engine.emit(queue, [300] * 2_000, FinishReason.LENGTH)
    assert result().count("data: ") == 2_001


def test_an_engine_that_fails_before_the_first_token_is_a_status(engine, http):
    result = in_thread(lambda: http.post("/v1/completions", json=STREAM))
    engine.next_queue().fail("the device is gone")
    answer = result()
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the device is gone"


def test_an_engine_that_fails_later_ends_the_stream_with_an_error(engine, http):
    result = in_thread(lambda: http.post("/v1/completions", json=STREAM))
    queue = engine.next_queue()
    engine.emit(queue, TOKENS)
    queue.fail("the device is gone")
    answer = result()
    assert answer.status_code == 200
    *chunks, last = answer.text.strip().split("\n\n")
    assert "choices" in chunks[0]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the device is gone"
    assert "[DONE]" not in answer.text


def test_a_full_queue_says_when_to_come_back(engine, http):
    engine.refusal = OverloadedError("the queue is full", retry_after_s=2.5)
    answer = http.post("/v1/completions", json=BODY)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["code"] == "overloaded"


def test_one_client_has_a_bound(engine, running):
    connections = [raw_post(running.address, BODY) for _ in range(LIMITS.max_requests_per_client)]
    held = [engine.next_queue() for _ in connections]
    answer = httpx.post(running.url + "/v1/completions", json=BODY, timeout=WAIT_S)
    assert answer.status_code == 429
    assert "max_requests_per_client=3" in answer.json()["error"]["message"]
    for connection, queue in zip(connections, held, strict=True):
        connection.close()
        engine.wait_abandoned(queue)


def test_an_error_inside_shows_nothing_of_it(engine, http):
    engine.refusal = ZeroDivisionError("secret")  # type: ignore[assignment]
    answer = http.post("/v1/completions", json=BODY, headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["error"]["code"] == "internal_error"


def test_a_server_that_ends_finishes_what_runs_and_refuses_the_rest(engine):
    with running_server(engine, ServerOptions(grace_s=60), LIMITS) as running:
        client = httpx.Client(base_url=running.url, timeout=WAIT_S)
        result = in_thread(lambda: httpx.post(running.url + "/v1/completions", json=BODY, timeout=WAIT_S))
        queue = engine.next_queue()
        assert client.get("/health").status_code == 200
        running.end()
        refused = client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503
        assert refused.headers["x-should-retry"] == "false"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 503
        engine.emit(queue, TOKENS, FinishReason.LENGTH)
        assert result().json()["usage"]["completion_tokens"] == 3
        client.close()
        running.wait_for_end()
    assert running.server.failure is None


def test_a_server_whose_time_is_up_aborts_what_runs(engine):
    with running_server(engine, ServerOptions(grace_s=0), LIMITS) as running:
        result = in_thread(lambda: httpx.post(running.url + "/v1/completions", json=STREAM, timeout=WAIT_S))
        queue = engine.next_queue()
        engine.emit(queue, TOKENS)
        running.end()
        engine.wait_abandoned(queue)
        assert "shutting down" in result().text
        running.wait_for_end()


def test_a_server_ends_with_its_engine(engine):
    with running_server(engine, limits=LIMITS) as running:
        engine.death = OverloadedError("the engine starts again", retry_after_s=1)
        answer = httpx.post(running.url + "/v1/completions", json=BODY, timeout=WAIT_S)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert running.thread.is_alive()  # a restart is no death
        engine.death = EngineError("the engine process was killed by SIGKILL")
        running.wait_for_end()
    assert running.server.failure == "the engine process was killed by SIGKILL"


def test_a_request_has_the_deadline_of_the_server(engine):
    with running_server(engine, ServerOptions(grace_s=0, request_timeout_s=7)) as running:
        result = in_thread(lambda: httpx.post(running.url + "/v1/completions", json=BODY, timeout=WAIT_S))
        queue = engine.next_queue()
        assert queue.deadline is not None
        engine.emit(queue, TOKENS, FinishReason.ABORT)
        assert result().json()["choices"][0]["finish_reason"] == "abort"
