"""Answers of /v1/messages and /v1/responses in the form of a completion, in which all answers are checked.
Plain Python."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.soak.answers import FaultyAnswerError
from benchmarks.soak.traffic import MESSAGES, RESPONSES

ENDS_OF_MESSAGES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}
ENDS_OF_RESPONSES = {"completed": "stop", "incomplete": "length"}
Answer = Mapping[str, Any]


def of_message(answer: Answer) -> Answer:
    """A message."""
    text = "".join(block.get("thinking", "") + block.get("text", "") for block in answer["content"])
    return _completion(text, ENDS_OF_MESSAGES.get(answer["stop_reason"]), answer["usage"])


def of_message_events(events: Sequence[bytes]) -> Answer:
    """The events of a streamed message. Raises FaultyAnswerError for a stream that is cut."""
    parsed = _whole(events, ("message_stop",))
    deltas = [event["delta"] for event in parsed if event["type"] == "content_block_delta"]
    (end,) = (event for event in parsed if event["type"] == "message_delta")
    text = "".join(delta.get("thinking", "") + delta.get("text", "") for delta in deltas)
    usage = {**parsed[0]["message"]["usage"], **end["usage"]}
    return _completion(text, ENDS_OF_MESSAGES.get(end["delta"]["stop_reason"]), usage)


def of_response(answer: Answer) -> Answer:
    """A response."""
    parts = [part for item in answer["output"] for part in item.get("content") or ()]
    text = "".join(part["text"] for part in parts)
    return _completion(text, ENDS_OF_RESPONSES.get(answer["status"]), answer["usage"])


def of_response_events(events: Sequence[bytes]) -> Answer:
    """The events of a streamed response. Raises FaultyAnswerError for a stream that is cut, and for events
    out of their order."""
    parsed = _whole(events, ("response.completed", "response.incomplete"))
    if [event["sequence_number"] for event in parsed] != list(range(len(parsed))):
        raise FaultyAnswerError("the events of a stream are not in their order")
    return of_response(parsed[-1]["response"])


READERS: Mapping[str, tuple[Callable[[Answer], Answer], Callable[[Sequence[bytes]], Answer]]] = {
    MESSAGES: (of_message, of_message_events),
    RESPONSES: (of_response, of_response_events),
}
"""By path: of an answer, and of the events of a streamed one."""


def _whole(events: Sequence[bytes], ends: Sequence[str]) -> list[Answer]:
    parsed = [json.loads(event) for event in events]
    if not parsed or parsed[-1]["type"] not in ends:
        raise FaultyAnswerError(f"the stream ended after {len(parsed)} events without {' or '.join(ends)}")
    return parsed


def _completion(text: str, end: str | None, usage: Mapping[str, int]) -> Answer:
    counts = {"prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"]}
    return {
        "choices": [{"text": text, "finish_reason": end}],
        "usage": {**counts, "total_tokens": usage.get("total_tokens", sum(counts.values()))},
    }
