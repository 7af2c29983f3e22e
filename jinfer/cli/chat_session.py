"""A conversation with a model: its messages, and the answers that continue it."""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from jinfer.cli.chat_parts import AnswerFormat, Part, PartReader, PartText, PlainReader
from jinfer.errors import RequestError
from jinfer.llm import LLM
from jinfer.requests.outputs import StreamPiece
from jinfer.requests.request import FinishReason
from jinfer.requests.sampling_params import SamplingParams

Message = dict[str, Any]
Show = Callable[[Part, str], None]
"""Takes the parts of an answer as they come."""


@dataclass
class ChatAnswer:
    """An answer of the model, with its figures. `finish_reason` is None where the answer was stopped."""

    num_prompt_tokens: int
    texts: dict[Part, str] = field(default_factory=lambda: dict.fromkeys(Part, ""))
    num_tokens: int = 0
    elapsed_s: float = 0.0
    first_token_s: float | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None

    @property
    def num_context_tokens(self) -> int:
        """Tokens of the context that the conversation takes, this answer included."""
        return self.num_prompt_tokens + self.num_tokens

    @property
    def is_kept(self) -> bool:
        """False for an answer that failed, or was stopped before its first word: the turn is taken back."""
        has_ended = self.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        return self.error is None and (has_ended or any(self.texts.values()))

    @property
    def message(self) -> Message:
        """The message of the history. Templates read earlier reasoning from a field of its own, or leave it
        out."""
        reasoning = self.texts[Part.REASONING].strip()
        message = {"role": "assistant", "content": self.texts[Part.CONTENT]}
        return message | ({"reasoning_content": reasoning} if reasoning else {})


class ChatSession:
    """The history of one conversation, and the model that continues it.

    With `uses_template` the model answers messages through its chat template; without, it continues the plain
    text of all messages.
    """

    def __init__(self, llm: LLM, *, params: SamplingParams, system: str | None, uses_template: bool) -> None:
        self.llm = llm
        self.params = params
        self.system = system
        self.uses_template = uses_template
        self.messages: list[Message] = []
        self.last_answer: ChatAnswer | None = None
        self._tokenizer = llm.parts.requests.need_tokenizer("chat")
        self._format = AnswerFormat(self._tokenizer) if uses_template else None

    @property
    def all_messages(self) -> list[Message]:
        """The history, which a system message may open."""
        return _with_system(self.system, self.messages)

    @property
    def max_model_len(self) -> int:
        """Tokens that the context holds."""
        return self.llm.limits.max_model_len

    @property
    def num_context_tokens(self) -> int:
        """Tokens that the history takes."""
        if self.last_answer is not None:
            return self.last_answer.num_context_tokens
        return len(self._token_ids(self.messages)) if self.messages else 0

    def reset(self) -> None:
        """Forgets the history, but not the system message and the parameters."""
        self.messages, self.last_answer = [], None

    def say(self, text: str, *, show: Show, is_stopped: Callable[[], bool]) -> ChatAnswer:
        """Answers a message. The history has both afterwards, unless the answer is not kept.

        Raises RequestError where the conversation no longer fits the context, or the template refuses it.
        """
        return self._answer([*self.messages, {"role": "user", "content": text}], show, is_stopped)

    def retry(self, *, show: Show, is_stopped: Callable[[], bool]) -> ChatAnswer:
        """Answers the last message of the user once more. The new answer replaces the old one if it is
        kept."""
        messages = list(self.messages)
        if messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages or messages[-1]["role"] != "user":
            raise RequestError("there is no message to answer again; say something first")
        return self._answer(messages, show, is_stopped)

    def _answer(self, messages: list[Message], show: Show, is_stopped: Callable[[], bool]) -> ChatAnswer:
        prompt = self._prompt(messages)
        answer = ChatAnswer(num_prompt_tokens=len(prompt))
        reader = self._reader(prompt)
        pieces = cast(Generator[StreamPiece, None, None], self.llm.stream([prompt], self.params))
        started = time.perf_counter()
        with contextlib.closing(pieces):  # a stopped answer leaves the engine between two steps
            for piece in pieces:
                _count(answer, piece, time.perf_counter() - started)
                _add(answer, reader.read(piece), show)
                if is_stopped():
                    break
        _add(answer, reader.finish(), show)
        if answer.is_kept:
            self.messages = [*messages, answer.message]
            self.last_answer = answer
        return answer

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of the conversation. Raises RequestError unless one more fits the context."""
        ids = self._token_ids(messages)
        if len(ids) >= self.max_model_len:
            raise RequestError(
                f"the conversation has {len(ids)} tokens with this message, and the context holds "
                f"{self.max_model_len}, of which one must be left for the answer: /reset begins a new "
                "conversation, and --max-model-len gives a longer context if the model allows"
            )
        return ids

    def _token_ids(self, messages: Sequence[Message]) -> list[int]:
        if self.uses_template:
            return self._tokenizer.apply_chat_template(_with_system(self.system, messages))
        return self._tokenizer.encode(plain_text(messages))

    def _reader(self, prompt: Sequence[int]) -> PartReader | PlainReader:
        return PlainReader() if self._format is None else self._format.reader(prompt, self.params)


def plain_text(messages: Sequence[Message]) -> str:
    """The contents one after another. A space parts what the user adds from what is there, unless one of them
    has white space at that end."""
    text = ""
    for message in messages:
        content = message["content"]
        if message["role"] == "user" and text and content:
            text += "" if text[-1].isspace() or content[0].isspace() else " "
        text += content
    return text


def _with_system(system: str | None, messages: Sequence[Message]) -> list[Message]:
    return [*([] if system is None else [{"role": "system", "content": system}]), *messages]


def _count(answer: ChatAnswer, piece: StreamPiece, elapsed_s: float) -> None:
    answer.num_tokens += len(piece.token_ids)
    answer.elapsed_s = elapsed_s
    if answer.first_token_s is None:
        answer.first_token_s = elapsed_s
    answer.finish_reason, answer.error = piece.finish_reason, piece.error


def _add(answer: ChatAnswer, texts: Iterable[PartText], show: Show) -> None:
    for part, text in texts:
        answer.texts[part] += text
        show(part, text)
