"""Bodies of requests, of both endpoints. Plain Python."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.bench.serve.conversations import Content, Conversation
from jinfer.errors import ConfigError

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


def request_body(
    endpoint: str,
    conversation: Conversation,
    history: Sequence[tuple[Content, str]],
    fields: Mapping[str, Any],
) -> bytes:
    """The JSON of the turn after `history`, which has the turns before, each with its answer.

    With the endpoint `chat` that is a list of messages; with `completions` one text, joined by line ends.
    `fields` are added, and win. Raises ConfigError for a content that the endpoint does not take.
    """
    content = conversation.turns[len(history)]
    prompt = _messages(history, content) if endpoint == "chat" else _prompt(history, content)
    body = {
        **prompt,
        "max_tokens": conversation.output_len,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"ignore_eos": True} if conversation.ignore_eos else {}),
        **fields,
    }
    return json.dumps(body).encode()


def _messages(history: Sequence[tuple[Content, str]], content: Content) -> dict[str, Any]:
    messages: list[Any] = []
    for said, answer in history:
        messages += [*_said(said), {"role": "assistant", "content": answer}]
    return {"messages": [*messages, *_said(content)]}


def _said(content: Content) -> list[Any]:
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    if isinstance(content[0], int):
        raise ConfigError("--endpoint chat takes no token ids, which this workload has; use completions")
    return list(content)


def _prompt(history: Sequence[tuple[Content, str]], content: Content) -> dict[str, Any]:
    if not isinstance(content, str) and not isinstance(content[0], int):
        raise ConfigError("--endpoint completions takes no messages, which this workload has; use chat")
    if not history:
        return {"prompt": content}
    texts = [text for said, answer in history for text in (said, answer)] + [content]
    if not all(isinstance(text, str) for text in texts):
        raise ConfigError("a conversation of token ids has one turn, for its answers are text; give texts")
    return {"prompt": "\n".join(map(str, texts))}
