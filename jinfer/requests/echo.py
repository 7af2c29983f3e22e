"""The text of a prompt before its completion."""

from collections.abc import Sequence
from typing import Protocol

from jinfer.requests.request import FinishReason
from jinfer.text.tokenizer import Tokenizer

REPLACEMENT_CHARACTER = "\ufffd"  # what decoding gives for bytes that are no character


class TextPiece(Protocol):
    """New text of a completion, as every stream gives it."""

    @property
    def text(self) -> str: ...

    @property
    def token_ids(self) -> Sequence[int]: ...

    @property
    def finish_reason(self) -> FinishReason | None: ...


class Echo:
    """A prompt of text is echoed as it was given. Ids are echoed as they decode, so that echo and completion
    together are the text of all ids; special tokens, and ids that have no token, are nothing, as in a
    completion.

    Ids may end within a character, whose bytes then are the output's if it goes on with them: `text` is what
    is certain before there is any output, and `end_before` the rest.
    """

    def __init__(self, prompt: str | Sequence[int], tokenizer: Tokenizer | None) -> None:
        """The ids have no text without a tokenizer."""
        self._tokenizer = tokenizer
        self._ids = [] if isinstance(prompt, str) else self._with_text(prompt)
        self._decoded = tokenizer.decode(self._ids) if tokenizer is not None and self._ids else ""
        self.text = prompt if isinstance(prompt, str) else self._decoded.rstrip(REPLACEMENT_CHARACTER)
        self._output_ids: list[int] = []
        self._is_given = isinstance(prompt, str) or self.text == self._decoded

    def end_before(self, piece: TextPiece) -> str:
        """The rest of the prompt's text, which goes before this piece of the output; '' once it was given."""
        if self._is_given or self._tokenizer is None:
            return ""
        self._output_ids += self._with_text(piece.token_ids)
        if not piece.text and piece.finish_reason is None:
            return ""  # the rest of the character may still come
        self._is_given = True
        together = self._tokenizer.decode(self._ids + self._output_ids)
        there = together[len(self.text) : len(self._decoded)]
        return there[: len(there) - len(there.lstrip(REPLACEMENT_CHARACTER))]

    def _with_text(self, token_ids: Sequence[int]) -> list[int]:
        tokenizer = self._tokenizer
        return [] if tokenizer is None else [i for i in token_ids if tokenizer.has_text(i, True)]
