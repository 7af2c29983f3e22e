"""Server-sent events: frames whose constant bytes are made once, and the response that sends them."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from fastapi import Response

from jinfer.errors import EngineError, RequestError
from jinfer.server.errors import ClientLeftError, ErrorReply, error_reply
from jinfer.server.generation import Generation, Piece
from jinfer.server.protocol.usage import UsageBody

logger = logging.getLogger(__name__)
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}  # or nginx would collect the events
encode = msgspec.json.Encoder().encode


class StreamWriter(Protocol):
    """Turns the pieces of a generation into the bytes of one API's events."""

    def write(self, pieces: Sequence[Piece]) -> bytes:
        """The events of some pieces."""

    def finish(self) -> bytes:
        """The events after the last piece."""

    def fail(self, reply: ErrorReply) -> bytes:
        """The event that ends a stream with an error."""


class ChunkFrames:
    """The frames of OpenAI's chunks: the same bytes around what a token changes.

    data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":
    "token"
    ,"logprobs":null,"finish_reason":null,"stop_reason":null}]}
    """

    PLAIN_TAIL = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]}\n\n'

    def __init__(self, *, response_id: str, kind: str, created: int, model: str, field: str) -> None:
        """`kind` is the chunks' `object`, and `field` the name of what changes: text or delta."""
        fields = {"id": response_id, "object": kind, "created": created, "model": model}
        self._head = b"data: " + encode(fields)[:-1] + b',"choices":['
        self._field = field.encode()
        self._heads: dict[int, bytes] = {}

    def chunk(
        self,
        index: int,
        value: bytes,
        *,
        logprobs: Any = None,
        finish_reason: str | None = None,
        stop_reason: str | int | None = None,
        more: bytes = b"",
        usage: Any = None,
    ) -> bytes:
        """The frame of one choice. `value` is JSON, and `more` further fields of the choice, a comma before
        each."""
        head = self._heads.get(index)
        if head is None:
            head = self._heads[index] = self._head + b'{"index":%d,"%b":' % (index, self._field)
        if logprobs is None and finish_reason is None and usage is None and not more:
            return head + value + self.PLAIN_TAIL
        end = b"" if usage is None else b',"usage":' + encode(usage)
        return b'%b%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b%b}]%b}\n\n' % (
            *(head, value, encode(logprobs), encode(finish_reason), encode(stop_reason), more, end),
        )

    def usage(self, usage: UsageBody) -> bytes:
        """The frame without choices that has the counts."""
        return self._head + b'],"usage":' + encode(usage) + b"}\n\n"


def error_frame(reply: ErrorReply) -> bytes:
    """The frame of an error."""
    return b"data: " + reply.body + b"\n\n"


class EventStream(Response):
    """Sends events as the pieces come, and aborts the generation when it ends in whatever way."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, writer: StreamWriter, first: list[Piece]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._generation = generation
        self._writer = writer
        self._first = first

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            last = await self._send_pieces(send)
            await send({"type": "http.response.body", "body": last})
        finally:
            self._generation.close()

    async def _send_pieces(self, send: Any) -> bytes:
        """Sends what comes until the end, and gives the bytes that are left to send."""
        pieces = self._first
        try:
            while pieces:
                body = self._writer.write(pieces)
                await send({"type": "http.response.body", "body": body, "more_body": True})
                pieces = await self._generation.take()
            return self._writer.finish()
        except ClientLeftError:
            return b""
        except (EngineError, RequestError) as error:
            return self._writer.fail(error_reply(error))
        except Exception as error:
            logger.exception("an error in a stream")
            return self._writer.fail(error_reply(error))


async def stream(generation: Generation, writer: StreamWriter) -> EventStream:
    """The response of a generation, once its first piece is there: what fails before has a status of its
    own."""
    try:
        return EventStream(generation, writer, await generation.take())
    except BaseException:
        generation.close()
        raise


def json_response(body: msgspec.Struct) -> Response:
    """The answer that a struct is."""
    return Response(encode(body), media_type="application/json")


def now_s() -> int:
    """The time of `created`, in seconds since 1970."""
    return int(time.time())
