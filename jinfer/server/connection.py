"""The front's end of the connection to an engine process, in its event loop."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from jinfer.errors import EngineError
from jinfer.server.frames import FrameReader, framed
from jinfer.server.wire import ToEngine, ToFront, decode_for_front, encode


class Connection(asyncio.Protocol):
    """Sends what a tick of the event loop brought in one write, and hands on what comes."""

    def __init__(
        self, receive: Callable[[ToFront], None], when_lost: Callable[[Exception | None], None]
    ) -> None:
        """`receive` gets every message, and may raise EngineError for one that ends the connection.
        `when_lost` is called once, with the error if it was one."""
        self._receive = receive
        self._when_lost = when_lost
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._error: Exception | None = None

    async def open(self, connection: socket.socket) -> None:
        """Takes over a connected socket."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=connection)

    def send(self, message: ToEngine) -> None:
        """Sends a message at the end of this tick; not at all where the connection has ended. Raises
        EngineError for one that is too long."""
        frame = framed(encode(message))
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame)

    def abort(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._receive(decode_for_front(frame))
        except EngineError as error:
            self._error = error
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._when_lost(self._error or error)
