"""The answers of /v1/responses: events of a stream in their strict order, or all at once."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec.structs

from jinfer.requests.request import FinishReason
from jinfer.server.answer_parser import ChoiceParser
from jinfer.server.blocks import BlockBuilder, BlockEvent
from jinfer.server.errors import ErrorBody, ErrorReply
from jinfer.server.generation import Generation, Piece
from jinfer.server.protocol.responses import (
    IncompleteDetails,
    ResponseBody,
    ResponseError,
    response_usage,
)
from jinfer.server.response_items import ItemWriter, item_body
from jinfer.server.streaming import encode


class ResponseWriter:
    """One answer. Ids of the response and its items are the same in all events."""

    def __init__(self, generation: Generation, parser: ChoiceParser, *, begun: ResponseBody) -> None:
        """`begun` is the response without items, as a stream begins with it."""
        self._generation = generation
        self._parser = parser
        self._begun = begun
        self._blocks = BlockBuilder()
        self._items = ItemWriter(uuid.uuid4().hex)
        self._num_events = 0
        self._finish_reason: FinishReason | None = None

    def write(self, pieces: Sequence[Piece]) -> bytes:
        """The events of some pieces, after those of the beginning."""
        return self._beginning() + b"".join(map(self._piece_events, pieces))

    def finish(self) -> bytes:
        """The event with the whole response; there is no mark of an end besides."""
        body = self._ended()
        return self._event({"type": f"response.{body.status}", "response": body})

    def fail(self, reply: ErrorReply) -> bytes:
        """The response failed, with the items that it had."""
        detail = msgspec.json.decode(reply.body, type=ErrorBody).error
        error = ResponseError(code=detail.code or "server_error", message=detail.message)
        body = msgspec.structs.replace(self._so_far(), status="failed", error=error)
        return self._beginning() + self._event({"type": "response.failed", "response": body})

    def response(self, pieces: Sequence[Piece]) -> ResponseBody:
        """The answer that the pieces make up."""
        for piece in pieces:
            for _ in self._changes(piece):
                pass
        return self._ended()

    def _beginning(self) -> bytes:
        """The first two events, before anything else."""
        if self._num_events > 0:
            return b""
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._event({"type": kind, "response": self._begun}) for kind in kinds)

    def _piece_events(self, piece: Piece) -> bytes:
        return b"".join(
            self._event(event)
            for change, block, text in self._changes(piece)
            for event in self._items.events(change, block, text)
        )

    def _changes(self, piece: Piece) -> Iterable[BlockEvent]:
        yield from self._blocks.add(self._parser.read(piece))
        if piece.finish_reason is not None:
            self._finish_reason = piece.finish_reason
            yield from self._blocks.finish()

    def _event(self, fields: dict[str, Any]) -> bytes:
        numbered = {**fields, "sequence_number": self._num_events}
        self._num_events += 1
        return b"event: %b\ndata: %b\n\n" % (fields["type"].encode(), encode(numbered))

    def _so_far(self) -> ResponseBody:
        """The response with the items that are there and the counts."""
        return msgspec.structs.replace(
            self._begun,
            output=[item_body(block, self._items.item_id(block)) for block in self._blocks.blocks],
            usage=response_usage(
                self._generation.usage(), num_reasoning_tokens=self._parser.num_reasoning_tokens
            ),
        )

    def _ended(self) -> ResponseBody:
        if self._finish_reason is FinishReason.STOP:
            return msgspec.structs.replace(self._so_far(), status="completed")
        is_length = self._finish_reason is FinishReason.LENGTH
        reason = IncompleteDetails("max_output_tokens" if is_length else "timeout")
        return msgspec.structs.replace(self._so_far(), status="incomplete", incomplete_details=reason)
