"""uvicorn's HTTP protocol with bounds: on the headers of a request, and on how long a peer may keep a
connection busy without sending or reading anything."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from jinfer.server.errors import status_reply
from jinfer.server.limits import ServerLimits

MAX_DRAINED_BODIES = 8  # of the largest size, read and dropped so that a client that only writes gets its 413


def bounded_protocol(limits: ServerLimits) -> type[asyncio.Protocol]:
    """The class of a connection's protocol under these limits, as uvicorn takes one."""

    class BoundedProtocol(BoundedHttpProtocol):
        pass

    BoundedProtocol.limits = limits
    return BoundedProtocol


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. A request that breaks a bound is answered, and the connection closed."""

    limits = ServerLimits()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._num_header_bytes = 0  # of the request whose headers are coming
        self._num_drained_bytes = 0  # that came after their answer
        self._refusal: str | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._late is not None:
            self._num_header_bytes += len(data)
        super().data_received(data)
        has_part = self._late is not None and self._num_header_bytes > self.limits.max_header_bytes
        if has_part and self._refusal is None:
            self._refuse(f"the headers have more than max_header_bytes={self.limits.max_header_bytes}")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_drained_bytes = 0
        if self._late is None:  # the connection was used before
            self._num_header_bytes = 0
            self._await_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self.limits.max_num_headers:
            self._fail_parse(f"the request has more than max_num_headers={self.limits.max_num_headers}")

    def on_headers_complete(self) -> None:
        num_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if num_bytes > self.limits.max_header_bytes:
            self._fail_parse(f"the headers have more than max_header_bytes={self.limits.max_header_bytes}")
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            self._num_drained_bytes += len(body)
            if self._num_drained_bytes > MAX_DRAINED_BODIES * self.limits.max_body_bytes:
                self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.max_stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or breaks a bound, and closes. Behind a request that has no answer yet it
        only closes: the client would take it for that answer."""
        cycle = self.cycle
        is_behind = cycle is not None and not cycle.response_complete
        if is_behind and (cycle.response_started or not cycle.more_body):
            self.transport.close()
        elif self._refusal is None:
            self._answer(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request; check the client or the proxy")
        else:
            self._answer(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"{self._refusal}; send fewer or shorter"
            )

    def _await_headers(self) -> None:
        self._late = self.loop.call_later(self.limits.max_header_s, self._close_late)

    def _close_late(self) -> None:
        self._refusal = f"the headers did not come within max_header_s={self.limits.max_header_s}"
        self._answer(HTTPStatus.REQUEST_TIMEOUT, self._refusal)

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self.send_400_response(reason)

    def _fail_parse(self, reason: str) -> None:
        """Ends the parsing of what was received: the parser reports it as an error, which is answered."""
        self._refusal = reason
        raise ValueError(reason)

    def _answer(self, status: HTTPStatus, message: str) -> None:
        reply = status_reply(status, message)
        self.transport.write(
            STATUS_LINE[reply.status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(reply.body)).encode()
            + b"\r\n\r\n"
            + reply.body
        )
        self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._stalled, self._late):
            if timer is not None:
                timer.cancel()
        self._stalled = self._late = None
