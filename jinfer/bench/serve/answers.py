"""An answer as it is streamed: its text, when each chunk came, its usage, and what is wrong with it. Plain
Python."""

import json
from collections.abc import Mapping
from typing import Any

from jinfer.errors import JinferError, shown

DONE = b"[DONE]"
DELTA_TEXTS = ("content", "reasoning", "reasoning_content")
FAILED_FINISHES = ("abort", "error")


class AnswerError(JinferError):
    """A request has no whole answer. `reason` is short, and equal for failures of one kind."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason, self.message = reason, message


class Answer:
    """The part of an answer that has arrived."""

    def __init__(self) -> None:
        self.chunk_times_s: list[float] = []  # of chunks with a token
        self.usage: Mapping[str, Any] = {}
        self.finish_reason: str | None = None
        self.ended_s: float | None = None
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """The content, without reasoning and calls of tools."""
        return "".join(self._texts)

    def add(self, data: bytes, time_s: float) -> None:
        """Takes the data of an event that arrived at `time_s`. Raises AnswerError for an error of the
        server's, and for what is no chunk."""
        if data == DONE:
            self.ended_s = time_s
            return
        try:
            chunk = json.loads(data)
            is_error, has_token = bool(chunk.get("error")), self._read(chunk)
        except (ValueError, TypeError, AttributeError) as error:
            raise AnswerError("malformed chunk", shown(data)) from error
        if is_error:
            raise AnswerError("error in the stream", error_message(chunk))
        if has_token:
            self.chunk_times_s.append(time_s)

    def check(self) -> None:
        """Raises AnswerError at the end of a stream that is no whole answer."""
        if self.ended_s is None:
            raise AnswerError(
                "cut", f"the stream ended after {len(self.chunk_times_s)} chunks without [DONE]"
            )
        if self.finish_reason is None:
            raise AnswerError("no finish_reason", "the stream ended with [DONE], and no chunk says why")
        if self.finish_reason in FAILED_FINISHES:
            raise AnswerError(f"finish_reason {self.finish_reason}", "")

    def count(self, name: str) -> int | None:
        """A number of tokens in the usage; None where the server does not say."""
        value = self.usage.get(name)
        return value if isinstance(value, int) else None

    @property
    def num_cached_tokens(self) -> int | None:
        """Tokens of the prompt that the server had in its prefix cache; None where it does not say."""
        details = self.usage.get("prompt_tokens_details")
        value = details.get("cached_tokens") if isinstance(details, Mapping) else None
        return value if isinstance(value, int) else None

    def _read(self, chunk: Mapping[str, Any]) -> bool:
        """Takes what a chunk has to say; True where that is a token."""
        has_token = False
        for choice in chunk.get("choices") or ():
            text, is_token = _read_choice(choice)
            if text:
                self._texts.append(text)
            has_token = has_token or is_token
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self.usage = chunk.get("usage") or self.usage
        return has_token


def _read_choice(choice: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of a choice, and whether it has a token: content of any kind, or none where that neither
    begins nor ends the answer. A token that ends within a character, or a marker, has no text yet."""
    if "text" in choice:
        text, is_middle = choice["text"], True
        others: list[Any] = []
    else:
        delta = choice.get("delta") or {}
        text, *others = (delta.get(name) for name in (*DELTA_TEXTS, "tool_calls"))
        is_middle = "role" not in delta
    is_token = bool(text) or any(others) or (is_middle and choice.get("finish_reason") is None)
    return str(text or ""), is_token


def error_message(body: Any) -> str:
    """The message in {"error": {"message": ...}} and in what is like it; '' where there is none."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    message = error.get("message", error.get("detail")) if isinstance(error, Mapping) else error
    return "" if message is None else str(message)
