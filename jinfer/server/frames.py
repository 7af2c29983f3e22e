"""Frames on a stream socket: the length of a message as four bytes, the highest first, and the message."""

import logging
import select
import socket
import time
from collections import deque
from collections.abc import Iterator

from jinfer.errors import EngineError

logger = logging.getLogger(__name__)

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 64 * 2**20
"""A prompt of ten million tokens; a longer length can only be another protocol's bytes."""
MAX_UNREAD_BYTES = 64 * 2**20
MAX_SILENCE_S = 60.0
CHECK_INTERVAL_S = 1.0


def framed(message: bytes) -> bytes:
    """The message with its length. Raises EngineError for one that is too long."""
    if len(message) > MAX_FRAME_BYTES:
        raise EngineError(
            f"a message between the front and the engine has {len(message)} bytes, and at most "
            f"{MAX_FRAME_BYTES} may be sent; send fewer or shorter prompts at a time"
        )
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


class FrameReader:
    """Messages from the bytes of a socket, in whatever pieces these come."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete with these bytes. Raises EngineError for a length that no message
        has."""
        self._bytes += data
        start = 0
        while len(self._bytes) - start >= LENGTH_BYTES:
            begin = start + LENGTH_BYTES
            length = int.from_bytes(self._bytes[start:begin], "big")
            if length > MAX_FRAME_BYTES:
                raise EngineError(
                    f"a message of {length} bytes is announced; at most {MAX_FRAME_BYTES} may be"
                )
            if len(self._bytes) < begin + length:
                break
            yield bytes(self._bytes[begin : begin + length])
            start = begin + length
        del self._bytes[:start]


class SocketWriter:
    """Writes frames to a socket whose reader must never hold the writer up.

    What the socket does not take at once is kept, up to a bound in bytes and in time. Past either, the reader
    counts as gone. For one thread.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        max_silence_s: float = MAX_SILENCE_S,
    ) -> None:
        self._socket = connection
        self._max_unread_bytes = max_unread_bytes
        self._max_silence_s = max_silence_s
        self._frames: deque[memoryview] = deque()
        self._num_bytes = 0
        self._last_progress = 0.0

    def send(self, message: bytes) -> None:
        """Sends a message, or keeps what the socket does not take. Raises EngineError where the reader is
        gone, or has not read for too long."""
        if not self._frames:
            self._last_progress = time.monotonic()
        frame = memoryview(framed(message))
        self._frames.append(frame)
        self._num_bytes += len(frame)
        self.flush()

    def flush(self) -> None:
        """Sends what is kept as far as the socket takes it. Raises what `send` raises."""
        try:
            while self._frames:
                self._take(self._socket.send(self._frames[0], socket.MSG_DONTWAIT))
        except (BlockingIOError, InterruptedError):
            self._check_reader()
        except OSError as error:
            raise EngineError(f"the front closed the connection ({error})") from error

    def drain(self) -> None:
        """Waits until everything is sent. Raises what `send` raises."""
        while self._frames:
            select.select([], [self._socket], [], CHECK_INTERVAL_S)
            self.flush()

    def _take(self, num_sent: int) -> None:
        self._last_progress = time.monotonic()
        self._num_bytes -= num_sent
        rest = self._frames.popleft()[num_sent:]
        if rest:
            self._frames.appendleft(rest)

    def _check_reader(self) -> None:
        silence_s = time.monotonic() - self._last_progress
        if self._num_bytes > self._max_unread_bytes or silence_s > self._max_silence_s:
            raise EngineError(
                f"the front has not read for {silence_s:.1f} s, and {self._num_bytes} bytes wait for it; at "
                f"most {self._max_silence_s:g} s and {self._max_unread_bytes} bytes are allowed"
            )
