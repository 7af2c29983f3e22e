"""An answer and its request: whether it is whole, and has what was asked for. Plain Python."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.soak.bodies import PERSON, Body

ENDS = ("stop", "length")
DONE = b"[DONE]"


class FaultyAnswerError(Exception):
    """An answer is not what it must be; the message says in which way."""


def joined(events: Sequence[bytes]) -> dict[str, Any]:
    """The events of a stream as the answer without one: its texts, ends and usage. Raises FaultyAnswerError
    for a stream that is cut, and for one that ends with an error."""
    if not events or events[-1] != DONE:
        raise FaultyAnswerError(f"the stream ended after {len(events)} chunks without [DONE]")
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in map(json.loads, events[:-1]):
        if "error" in chunk:
            raise FaultyAnswerError(f"the stream has an error: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {"text": "", "finish_reason": None, "logprobs": []})
            choice["text"] += _text_of(part)
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
            choice["logprobs"] += (part.get("logprobs") or {}).get("token_logprobs", [])
    for choice in choices.values():
        choice["logprobs"] = {"token_logprobs": choice["logprobs"]}
    return {"choices": [choices[index] for index in sorted(choices)], "usage": usage}


def texts_of(answer: Mapping[str, Any]) -> list[str]:
    """The texts of all choices, in their order."""
    return [_text_of(choice) for choice in answer["choices"]]


def check(body: Body, answer: Mapping[str, Any]) -> None:
    """Raises FaultyAnswerError for an answer of completions or chat that is not whole, or not what `body`
    asks for."""
    faults = list(_faults(body, answer))
    if faults:
        raise FaultyAnswerError(f"{'; '.join(faults)}: {json.dumps(answer)[:500]}")


def _faults(body: Body, answer: Mapping[str, Any]) -> Iterator[str]:
    choices, usage = answer["choices"], answer.get("usage")
    num_prompts = len(body["prompt"]) if _is_list_of_prompts(body.get("prompt")) else 1
    if len(choices) != body.get("n", 1) * num_prompts:
        yield f"{len(choices)} choices"
    if not usage or usage["total_tokens"] != usage["prompt_tokens"] + usage["completion_tokens"]:
        yield f"the usage {usage}"
    elif usage["completion_tokens"] > (most := body[_length_field(body)]) * len(choices):
        yield f"{usage['completion_tokens']} tokens, and max_tokens={most}"
    else:
        yield from _logprob_faults(body, choices, usage)
    for choice in choices:
        yield from _choice_faults(body, choice)


def _length_field(body: Body) -> str:
    return "max_output_tokens" if "max_output_tokens" in body else "max_tokens"


def _choice_faults(body: Body, choice: Mapping[str, Any]) -> Iterator[str]:
    text, end = _text_of(choice), choice["finish_reason"]
    if end not in ENDS:
        yield f"the finish_reason {end}"
    yield from (f"the stop string {stop!r}" for stop in body.get("stop", ()) if stop in text)
    if end == "stop" and not _fits(body.get("structured_outputs", {}), text):
        yield "a text that does not fit its structure"


def _logprob_faults(body: Body, choices: Sequence[Any], usage: Mapping[str, int]) -> Iterator[str]:
    if body.get("logprobs") is None:
        return
    values = [value for choice in choices for value in choice["logprobs"]["token_logprobs"]]
    wanted = usage["completion_tokens"] + (usage["prompt_tokens"] if body.get("echo") else 0)
    if len(values) != wanted:
        yield f"{len(values)} log probabilities of {wanted} tokens"
    unknown = sum(value is None for value in values)
    if unknown != bool(body.get("echo")):
        yield f"{unknown} tokens without a log probability"


def _fits(structure: Mapping[str, Any], text: str) -> bool:
    if "regex" in structure:
        return re.fullmatch(structure["regex"], text) is not None
    if "choice" in structure:
        return text in structure["choice"]
    return "json" not in structure or _is_person(text)


def _is_person(text: str) -> bool:
    try:
        person = json.loads(text)
    except ValueError:
        return False
    return (
        person.keys() == PERSON["properties"].keys()
        and len(person["name"]) <= 12
        and 0 <= person["age"] <= 99
        and person["pet"] in ("cat", "dog", "fox")
    )


def _is_list_of_prompts(prompt: Any) -> bool:
    return isinstance(prompt, list) and not isinstance(prompt[0], int)


def _text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice, whole or a part of it, of either endpoint."""
    if "text" in choice:
        return choice["text"]
    said = choice.get("message") or choice.get("delta") or {}
    return (said.get("reasoning") or "") + (said.get("content") or "")
