"""The answers of /v1/messages: events of a stream, or all at once."""

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from jinfer.requests.request import FinishReason
from jinfer.server.answer_parser import ChoiceParser
from jinfer.server.blocks import Block, BlockBuilder, BlockEvent, BlockKind, Change
from jinfer.server.error_shapes import as_anthropic
from jinfer.server.errors import ErrorReply
from jinfer.server.generation import Generation, Piece
from jinfer.server.protocol.messages import MessageBody, messages_usage
from jinfer.server.streaming import encode

TYPES = {BlockKind.REASONING: "thinking", BlockKind.CONTENT: "text"}
TIMED_OUT = "pause_turn"  # the client may send what there is, and ask for more
INVALID_JSON = "INVALID_JSON"  # the key under which Anthropic's guide puts arguments that do not parse


class MessagesWriter:
    """One answer in blocks of content."""

    def __init__(self, generation: Generation, parser: ChoiceParser, *, model: str) -> None:
        self._generation = generation
        self._parser = parser
        self._model = model
        self._id = f"msg_{uuid.uuid4().hex}"
        self._blocks = BlockBuilder()
        self._has_begun = False
        self._last: Piece | None = None

    def write(self, pieces: Sequence[Piece]) -> bytes:
        """The events of some pieces, after that of the beginning."""
        beginning = b"" if self._has_begun else _event("message_start", message=self._message([]))
        self._has_begun = True
        return beginning + b"".join(
            _block_event(*change) for piece in pieces for change in self._changes(piece)
        )

    def finish(self) -> bytes:
        """The reason of the end, the counts, and the end."""
        stop_reason, stop_sequence = self._stop()
        delta = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        usage = messages_usage(self._generation.usage())
        return _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def fail(self, reply: ErrorReply) -> bytes:
        """The error."""
        return b"event: error\ndata: " + as_anthropic(reply).body + b"\n\n"

    def response(self, pieces: Sequence[Piece]) -> MessageBody:
        """The answer that the pieces make up."""
        for piece in pieces:
            for _ in self._changes(piece):
                pass
        return self._message(list(map(_block_body, self._blocks.blocks)))

    def _changes(self, piece: Piece) -> Iterable[BlockEvent]:
        yield from self._blocks.add(self._parser.read(piece))
        if piece.finish_reason is not None:
            self._last = piece
            yield from self._blocks.finish()

    def _message(self, content: list[dict[str, Any]]) -> MessageBody:
        stop_reason, stop_sequence = self._stop()
        return MessageBody(
            id=self._id,
            model=self._model,
            content=content,
            stop_reason=stop_reason,
            stop_sequence=stop_sequence,
            usage=messages_usage(self._generation.usage()),
        )

    def _stop(self) -> tuple[str | None, str | None]:
        """stop_reason and stop_sequence; None before the end."""
        if self._last is None:
            return None, None
        if self._last.finish_reason is not FinishReason.STOP:
            return ("max_tokens" if self._last.finish_reason is FinishReason.LENGTH else TIMED_OUT), None
        if isinstance(self._last.stop_reason, str):
            return "stop_sequence", self._last.stop_reason
        return ("tool_use" if self._parser.has_tool_calls else "end_turn"), None


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))


def _block_event(change: Change, block: Block, text: str) -> bytes:
    if change is Change.OPENED:
        return _event("content_block_start", index=block.index, content_block=_block_body(block))
    if change is Change.GROWN:
        return _event("content_block_delta", index=block.index, delta=_delta(block, text))
    end = _event("content_block_stop", index=block.index)
    if block.kind is not BlockKind.REASONING:
        return end
    signature = {"type": "signature_delta", "signature": ""}
    return _event("content_block_delta", index=block.index, delta=signature) + end


def _delta(block: Block, text: str) -> dict[str, Any]:
    if block.call is not None:
        return {"type": "input_json_delta", "partial_json": text}
    name = TYPES[block.kind]
    return {"type": f"{name}_delta", name: text}


def _block_body(block: Block) -> dict[str, Any]:
    """A block with the text that it has so far."""
    if block.call is not None:
        call = {"type": "tool_use", "id": block.call.id, "name": block.call.name}
        return {**call, "input": _input(block.text)}
    name = TYPES[block.kind]
    body = {"type": name, name: block.text}
    return {**body, "signature": ""} if block.kind is BlockKind.REASONING else body


def _input(arguments: str) -> dict[str, Any]:
    """The arguments of a call, which must be an object here."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if type(value) is dict else {INVALID_JSON: arguments}
