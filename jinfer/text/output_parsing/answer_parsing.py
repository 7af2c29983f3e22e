"""Parsers for the answers of one model: what a server uses."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from jinfer.text.decoder_kind import DecoderKind
from jinfer.text.output_parsing.compiled_format import CompiledFormat
from jinfer.text.output_parsing.deltas import Delta, ParsedOutput, join
from jinfer.text.output_parsing.marker_search import MarkerSearch
from jinfer.text.output_parsing.output_parser import OutputParser
from jinfer.text.output_parsing.response_format import Region, ResponseFormat
from jinfer.text.output_parsing.symbols import MarkerToken, Symbol, SymbolStream
from jinfer.text.placed_token import PlacedToken
from jinfer.text.tokenizer import Tokenizer

NUM_FIRST_TAIL_IDS = 64
TAIL_FACTOR = 16


@dataclass(frozen=True)
class AnswerPlace:
    """The place where a prompt ends in the assistant's message: its region, None outside of all, and whether
    the message has begun there, with text or a marker."""

    region: Region | None
    has_begun: bool


class AnswerParser:
    """The parser of one answer, fed with what a Detokenizer gives."""

    def __init__(self, stream: SymbolStream, parser: OutputParser) -> None:
        self._stream = stream
        self._parser = parser

    @property
    def is_in_reasoning(self) -> bool:
        """True where the next text would be reasoning."""
        return self._parser.is_in_reasoning

    def feed(self, text: str, placed_tokens: Iterable[PlacedToken] = ()) -> list[Delta]:
        """The deltas that are certain with the next text.

        `placed_tokens` are those of the answer's marker tokens that were not given yet. Each must be given
        with the text it is in or before, and may come earlier.
        """
        return self._parser.feed(self._stream.push(text, placed_tokens))

    def finish(self) -> list[Delta]:
        """The last deltas, at the end of the answer."""
        return self._parser.finish()


class AnswerParsing:
    """The format of a model's answers with its tokenizer; immutable, and safe to share between requests."""

    def __init__(self, tokenizer: Tokenizer, response_format: ResponseFormat) -> None:
        """Markers are found by their text alone where the kind of the tokenizer's decoder is unknown."""
        is_exact = tokenizer.decoder_kind is not DecoderKind.UNKNOWN
        added_tokens = tokenizer.added_tokens if is_exact else {}
        self.response_format = response_format
        self.tokenizer = tokenizer
        self._compiled = CompiledFormat(response_format, added_tokens)
        self._marker_texts = {added_tokens[text]: text for text in self._compiled.marker_tokens}

    @property
    def marker_token_ids(self) -> frozenset[int]:
        """The ids of the tokens that are markers: those that a Detokenizer has to place."""
        return frozenset(self._marker_texts)

    def parser(
        self,
        prompt_token_ids: Sequence[int] = (),
        *,
        tools: Sequence[Any] | None = None,
        reads_reasoning: bool = True,
        new_call_id: Callable[[], str] | None = None,
    ) -> AnswerParser:
        """A parser for an answer to the prompt, which begins where the prompt's assistant message ends.

        tools: those of the request, in OpenAI's form. None: calls are not looked for, and stay in the
        content. reads_reasoning: split the reasoning off the content. new_call_id: replaces random ids.
        """
        parser = OutputParser(
            self._compiled, tools=tools, reads_reasoning=reads_reasoning, new_call_id=new_call_id
        )
        parser.read_prompt(self._message(prompt_token_ids))
        return AnswerParser(SymbolStream(self._marker_texts), parser)

    def place(self, prompt_token_ids: Sequence[int]) -> AnswerPlace:
        """The place where an answer to the prompt begins."""
        message = self._message(prompt_token_ids)
        parser = OutputParser(self._compiled, tools=())
        parser.read_prompt(message)
        has_begun = any(not isinstance(symbol, str) or not symbol.isspace() for symbol in message)
        return AnswerPlace(parser.region, has_begun)

    def _message(self, token_ids: Sequence[int]) -> list[Symbol]:
        """The assistant's message that the prompt begins: what comes after its last anchor, if there is
        one."""
        num_ids = NUM_FIRST_TAIL_IDS
        while True:
            symbols = self._symbols(token_ids[max(0, len(token_ids) - num_ids) :])
            start = self._end_of_last_anchor(symbols)
            if start is not None:
                return symbols[start:]
            if num_ids >= len(token_ids):
                return []
            num_ids *= TAIL_FACTOR

    def _end_of_last_anchor(self, symbols: list[Symbol]) -> int | None:
        end = None
        start = 0
        while start < len(symbols):
            search = MarkerSearch(self._compiled.anchors)
            match = None
            for symbol in symbols[start:]:
                if (match := search.push(symbol)) is not None:
                    break
            match = match or search.best
            if match is None:
                break
            start += match.end
            end = start
        return end

    def _symbols(self, token_ids: Sequence[int]) -> list[Symbol]:
        symbols: list[Symbol] = []
        for is_text, run in groupby(token_ids, key=lambda token_id: token_id not in self._marker_texts):
            if is_text:
                symbols += self.tokenizer.decode(list(run), skip_special_tokens=False)
            else:
                symbols += [MarkerToken(self._marker_texts[token_id], "") for token_id in run]
        return symbols


def parse_all(parser: AnswerParser, text: str, placed_tokens: Iterable[PlacedToken] = ()) -> ParsedOutput:
    """A whole answer: what a client joins of the deltas."""
    return join([*parser.feed(text, placed_tokens), *parser.finish()])
