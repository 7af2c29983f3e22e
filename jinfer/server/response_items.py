"""The items of /v1/responses, and the events in which a stream gives them."""

from typing import Any

from jinfer.server.blocks import Block, BlockKind, Change

PREFIXES = {BlockKind.REASONING: "rs", BlockKind.CONTENT: "msg", BlockKind.TOOL_CALL: "fc"}
TEXT_EVENTS = {
    BlockKind.REASONING: "response.reasoning_text",
    BlockKind.CONTENT: "response.output_text",
    BlockKind.TOOL_CALL: "response.function_call_arguments",
}


def item_body(block: Block, item_id: str, *, is_done: bool = True) -> dict[str, Any]:
    """A block as an item; without its text while it is not done."""
    status = "completed" if is_done else "in_progress"
    parts = [_part(block, block.text)] if is_done else []
    if block.kind is BlockKind.REASONING:
        return {"type": "reasoning", "id": item_id, "summary": [], "content": parts, "status": status}
    if block.kind is BlockKind.CONTENT:
        message = {"type": "message", "id": item_id, "role": "assistant"}
        return {**message, "content": parts, "status": status}
    assert block.call is not None
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": block.call.id,
        "name": block.call.name,
        "arguments": block.text if is_done else "",
        "status": status,
    }


class ItemWriter:
    """Makes the events of one response's items. Each item has the same id in all of them."""

    def __init__(self, response_key: str) -> None:
        self._key = response_key

    def item_id(self, block: Block) -> str:
        """The id of a block's item."""
        return f"{PREFIXES[block.kind]}_{self._key}_{block.index}"

    def events(self, change: Change, block: Block, text: str) -> list[dict[str, Any]]:
        """The events of a change, in order, without their numbers."""
        if change is Change.GROWN:
            return [{**self._text_event(block, "delta"), "delta": text}]
        item = item_body(block, self.item_id(block), is_done=change is Change.CLOSED)
        output = {"output_index": block.index, "item": item}
        if change is Change.OPENED:
            return [{"type": "response.output_item.added", **output}, *self._part_events(block, "added", "")]
        return [
            self._text_done(block),
            *self._part_events(block, "done", block.text),
            {"type": "response.output_item.done", **output},
        ]

    def _text_event(self, block: Block, name: str) -> dict[str, Any]:
        place: dict[str, Any] = {"item_id": self.item_id(block), "output_index": block.index}
        if block.kind is not BlockKind.TOOL_CALL:
            place["content_index"] = 0
        if block.kind is BlockKind.CONTENT:
            place["logprobs"] = []
        return {"type": f"{TEXT_EVENTS[block.kind]}.{name}", **place}

    def _text_done(self, block: Block) -> dict[str, Any]:
        event = self._text_event(block, "done")
        if block.call is not None:
            return {**event, "name": block.call.name, "arguments": block.text}
        return {**event, "text": block.text}

    def _part_events(self, block: Block, name: str, text: str) -> list[dict[str, Any]]:
        """The event of the one part of an item that has parts."""
        if block.kind is BlockKind.TOOL_CALL:
            return []
        place = {"item_id": self.item_id(block), "output_index": block.index, "content_index": 0}
        return [{"type": f"response.content_part.{name}", **place, "part": _part(block, text)}]


def _part(block: Block, text: str) -> dict[str, Any]:
    if block.kind is BlockKind.REASONING:
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
