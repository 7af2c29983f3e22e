"""The parts of an answer, made of the text of a choice: reasoning, content and tool calls."""

from collections.abc import Sequence
from typing import Any

from jinfer.requests.prompts import Prompt
from jinfer.requests.request import FinishReason
from jinfer.server.generation import Piece
from jinfer.server.generation_service import GenerationService
from jinfer.text.output_parsing.answer_parsing import AnswerParser, AnswerParsing
from jinfer.text.output_parsing.deltas import Delta, ToolCallArguments, ToolCallStart

MAX_INLINE_TOKENS = 1024  # of a prompt whose end the event loop reads itself


class ChoiceParser:
    """Reads the pieces of one choice in order, each once."""

    def __init__(self, parser: AnswerParser, *, max_tool_calls: int | None = None) -> None:
        """Calls past `max_tool_calls` are left out."""
        self._parser = parser
        self._max_tool_calls = max_tool_calls
        self.has_tool_calls = False
        self.num_reasoning_tokens = 0
        """Tokens between the markers of reasoning, as their text comes."""

    def read(self, piece: Piece) -> list[Delta]:
        """The deltas that are certain with a piece; with the last, all that are left."""
        was_in_reasoning = self._parser.is_in_reasoning
        deltas = self._parser.feed(piece.text, piece.placed_tokens)
        is_no_end = piece.token_ids != () and piece.finish_reason is not FinishReason.STOP
        self.num_reasoning_tokens += was_in_reasoning and self._parser.is_in_reasoning and is_no_end
        if piece.finish_reason is not None:
            deltas += self._parser.finish()
        if self._max_tool_calls is not None:
            deltas = [delta for delta in deltas if not self._is_past(delta, self._max_tool_calls)]
        self.has_tool_calls |= any(isinstance(delta, ToolCallStart) for delta in deltas)
        return deltas

    @staticmethod
    def _is_past(delta: Delta, max_tool_calls: int) -> bool:
        return isinstance(delta, ToolCallStart | ToolCallArguments) and delta.index >= max_tool_calls


async def choice_parsers(
    service: GenerationService,
    parsing: AnswerParsing | None,
    prompt: Prompt,
    *,
    num_choices: int,
    tools: Sequence[Any] | None,
    allows_parallel_calls: bool | None,
) -> list[ChoiceParser]:
    """A parser for each answer to a prompt of chat. `tools` are OpenAI's, and None leaves calls in the
    content; an answer has one call at most where parallel ones are not allowed."""
    assert parsing is not None, "a prompt of chat without a tokenizer"
    max_tool_calls = 1 if allows_parallel_calls is False else None
    token_ids = prompt.token_ids or ()

    def make() -> list[ChoiceParser]:
        parsers = [parsing.parser(token_ids, tools=tools) for _ in range(num_choices)]
        return [ChoiceParser(parser, max_tool_calls=max_tool_calls) for parser in parsers]

    return await service.in_thread_if(len(token_ids) > MAX_INLINE_TOKENS, make)
