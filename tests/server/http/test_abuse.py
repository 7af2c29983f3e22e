"""What no good client sends, over raw sockets, while a good stream beside it goes on."""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jinfer.server.limits import ServerLimits
from tests.server.http.running_server import RunningServer, running_server
from tests.server.http.scripted_engine import WAIT_S, ScriptedEngine
from tests.server.http.test_lifecycle import STREAM, raw_post

LIMITS = ServerLimits(max_num_headers=50, max_header_bytes=20_000, max_body_s=1)
GET = b"GET /version HTTP/1.1\r\nhost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


class GoodStream:
    """A client that reads a token at a time."""

    def __init__(self, engine: ScriptedEngine, running: RunningServer) -> None:
        self._engine = engine
        self._connection = raw_post(running.address, STREAM)
        self._queue = engine.next_queue()
        self._buffer = b""

    def check(self) -> None:
        """One token is given, and read."""
        before = self._buffer.count(b"data: ")
        self._engine.emit(self._queue, [300])
        while self._buffer.count(b"data: ") == before:
            self._buffer += self._connection.recv(65536)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def running(engine: ScriptedEngine) -> Iterator[RunningServer]:
    with running_server(engine, limits=LIMITS) as running:
        yield running


@pytest.fixture
def good_stream(engine: ScriptedEngine, running: RunningServer) -> Iterator[GoodStream]:
    """A stream that must live before and after the test."""
    stream = GoodStream(engine, running)
    stream.check()
    yield stream
    stream.check()
    stream.close()


@pytest.fixture
def hasty(running: RunningServer, good_stream: GoodStream, monkeypatch: pytest.MonkeyPatch) -> RunningServer:
    """The server, which waits for headers for a second from now on: the good stream could have been as late
    where the machine stalls."""
    monkeypatch.setattr(running.server.config.http, "limits", replace(LIMITS, max_header_s=1))
    return running


def exchange(running: RunningServer, sent: bytes) -> bytes:
    """All that the server answers before it closes."""
    received = b""
    with socket.create_connection(running.address, timeout=WAIT_S) as connection:
        with contextlib.suppress(ConnectionError):  # it may close while we send
            connection.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                received += part
    return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200,  # a TLS hello
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"content-length: -1\r\n\r\n{}",
        POST + b"content-length: 2\r\ncontent-length: 5\r\n\r\n{}abc",
        POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        POST + b"transfer-encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
        GET + b"bad header\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[-30:]),
)
def test_what_is_no_http_is_answered_and_closed(running, good_stream, garbage):
    answer = exchange(running, garbage)
    assert status_of(answer) in (400, 505)
    assert set(error_of(answer)) == {"message", "type", "param", "code"}


def test_garbage_behind_a_good_request_closes(running, good_stream):
    """Without an answer that could be taken for the good one's."""
    with socket.create_connection(running.address, timeout=WAIT_S) as connection:
        connection.sendall(GET + b"\r\n" + b"\x00\x01garbage\r\n\r\n")
        answer = connection.recv(65536)
    assert answer == b"" or status_of(answer) == 200


def test_pipelined_requests_are_answered_in_order(running, good_stream):
    paths = [b"/version", b"/nowhere", b"/v1/models"] * 5
    requests = [b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n" for path in paths]
    requests.append(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = exchange(running, b"".join(requests))
    statuses = [int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    statuses += [int(part[:3]) for part in answer.split(b"}HTTP/1.1 ")[1:]]
    assert len(statuses) == 16
    assert statuses.count(404) == 5


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"x-%d: y\r\n" % number for number in range(60)),
        b"x-long: " + b"y" * 30_000 + b"\r\n",
        b"x" * 30_000 + b": y\r\n",
        b"x-never-ends: " + b"y" * 1_000_000,
    ],
    ids=["many", "long value", "long name", "without end"],
)
def test_a_flood_of_headers_is_refused_with_the_bound(running, good_stream, headers):
    answer = exchange(running, GET + headers + b"\r\n\r\n")
    assert status_of(answer) == 431
    assert "max_" in error_of(answer)["message"]


def test_a_long_address_is_refused(running, good_stream):
    answer = exchange(running, b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert status_of(answer) in (400, 431)


def test_headers_that_never_end_are_given_up(hasty):
    answer = exchange(hasty, GET)
    assert status_of(answer) == 408
    assert "max_header_s=1" in error_of(answer)["message"]


def test_a_connection_that_says_nothing_is_given_up(hasty):
    assert status_of(exchange(hasty, b"")) == 408


def test_a_body_that_never_ends_is_given_up(running, good_stream):
    answer = exchange(running, POST + b"content-length: 100\r\nconnection: close\r\n\r\n{")
    assert status_of(answer) == 408
    assert "max_body_s=1" in error_of(answer)["message"]


def test_a_hundred_connections_that_are_dropped_leave_nothing(running, engine, good_stream):
    connections = [raw_post(running.address, STREAM) for _ in range(100)]
    queues = [engine.next_queue() for _ in connections]
    for connection in connections:
        connection.close()
    for queue in queues:
        engine.wait_abandoned(queue)
