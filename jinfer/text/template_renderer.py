"""Chat templates under limits of time and memory (template_process.py), from this side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.limited_process.limits import Excess, ProcessLimits, excess_of
from jinfer.text.limited_process.process import LimitedProcess, ProcessEndedError
from jinfer.text.tokenizer import Tokenizer

MODULE = "jinfer.text.template_process"
KINDS = {kind.__name__: kind for kind in (RequestError, TokenizerError)}


@dataclass(frozen=True)
class TemplateLimits:
    """The bounds of rendering one conversation; Qwen3's template takes 0.2 s for 8 MB of messages."""

    process: ProcessLimits = field(
        default_factory=lambda: ProcessLimits(cpu_s=2.0, num_bytes=512 << 20, stack_bytes=8 << 20)
    )
    max_characters: int = 32 << 20
    """The length of the prompt that comes out, at most."""


class TemplateRenderer:
    """Renders conversations with the templates of a tokenizer, in a process of its own. One thread uses it at
    a time. The process starts with the first conversation, and anew after one that ended it."""

    def __init__(self, tokenizer: Tokenizer, limits: TemplateLimits | None = None) -> None:
        self._tokenizer = tokenizer
        self._limits = limits or TemplateLimits()
        setup = {
            "special_tokens": dict(tokenizer.special_tokens),
            "max_characters": self._limits.max_characters,
        }
        self._process = LimitedProcess(MODULE, setup, self._limits.process, needs=jinja2)

    def token_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> list[int]:
        """The ids that `Tokenizer.apply_chat_template` gives, of values of JSON. Raises what that raises,
        and RequestError for messages over which the template takes too long or too much memory."""
        source = self._tokenizer.usual_template(has_tools=tools is not None)
        question = {"source": source, "messages": messages, "options": {"tools": tools, **options}}
        try:
            answer = self._process.ask(question)
        except ProcessEndedError as ended:
            raise RequestError(self._reason(ended.status)) from None
        if "error" in answer:
            raise KINDS[answer["kind"]](answer["error"])
        return self._tokenizer.encode(answer["text"], add_special_tokens=False)

    def start(self) -> None:
        """Starts the process, if it does not run."""
        self._process.start()

    def kill(self) -> None:
        """Ends the conversation that another thread renders."""
        self._process.kill()

    def close(self) -> None:
        """Ends the process, which no thread uses."""
        self._process.close()

    def _reason(self, status: int) -> str:
        limits = self._limits.process
        what = {
            Excess.TIME: f"takes more than {limits.cpu_s:g} s of CPU",
            Excess.DEPTH: "nests too deeply",
            Excess.MEMORY: f"takes more than {limits.num_bytes >> 20} MiB of memory",
            Excess.OTHER: f"ended its process with the status {status}",
        }[excess_of(status)]
        return f"the chat template {what} with these messages; send fewer or shorter ones"
