"""The parts of an answer while it streams: its reasoning, and all else."""

import enum
from collections.abc import Iterable, Sequence

from jinfer.requests.outputs import StreamPiece
from jinfer.requests.sampling_params import SamplingParams
from jinfer.text.detokenizer import Detokenizer
from jinfer.text.output_parsing.answer_parsing import AnswerParsing
from jinfer.text.output_parsing.deltas import ContentDelta, Delta, ReasoningDelta
from jinfer.text.output_parsing.format_choice import choose_format
from jinfer.text.placed_token import PlacedToken
from jinfer.text.tokenizer import Tokenizer


class Part(enum.Enum):
    """The part of an answer that a text belongs to."""

    REASONING = "reasoning"
    CONTENT = "content"


PartText = tuple[Part, str]
PARTS = {ReasoningDelta: Part.REASONING, ContentDelta: Part.CONTENT}


class AnswerFormat:
    """The format in which a model answers, which its chat template tells."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._parsing = AnswerParsing(tokenizer, choose_format(tokenizer))

    def reader(self, prompt: Sequence[int], params: SamplingParams) -> "PartReader":
        """A reader of the answer to a prompt, which may have opened the reasoning."""
        places = Detokenizer(
            self._tokenizer,
            stop=params.stop_strings,
            include_stop_str_in_output=params.include_stop_str_in_output,
            skip_special_tokens=params.skip_special_tokens,
            min_tokens=params.min_tokens,
            context=prompt,
            placed_token_ids=self._parsing.marker_token_ids,
        )
        return PartReader(self._parsing, prompt, places)


class PartReader:
    """Reads the pieces of one answer, each once. Calls of tools, of which none are offered, are content."""

    def __init__(self, parsing: AnswerParsing, prompt: Sequence[int], places: Detokenizer) -> None:
        """`places` finds the markers that are tokens in the text of the pieces."""
        self._parser = parsing.parser(prompt)
        self._places = places
        self._num_placed = 0

    def read(self, piece: StreamPiece) -> list[PartText]:
        """The parts of the text that are certain now."""
        return _part_texts(self._parser.feed(piece.text, self._new_places(piece.token_ids)))

    def finish(self) -> list[PartText]:
        """The text that is still held back."""
        return _part_texts(self._parser.finish())

    def _new_places(self, token_ids: Sequence[int]) -> Sequence[PlacedToken]:
        for token_id in token_ids:
            if self._places.stop_reason is None:
                self._places.add(token_id)
        new = self._places.placed_tokens[self._num_placed :]
        self._num_placed += len(new)
        return new


class PlainReader:
    """Reads the pieces of plain text, in which marks mean nothing."""

    def read(self, piece: StreamPiece) -> list[PartText]:
        """The text of the piece."""
        return [(Part.CONTENT, piece.text)] if piece.text else []

    def finish(self) -> list[PartText]:
        """Nothing: no text is held back."""
        return []


def _part_texts(deltas: Iterable[Delta]) -> list[PartText]:
    return [
        (PARTS[type(delta)], delta.text)
        for delta in deltas
        if isinstance(delta, ReasoningDelta | ContentDelta) and delta.text
    ]
