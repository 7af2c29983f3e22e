"""Generated text as a sequence of symbols: its characters, and in between the tokens that are markers."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jinfer.text.placed_token import PlacedToken


class MarkerToken(NamedTuple):
    """A token that a format uses as a marker, in an output.

    `shown` is its text in the output: empty where special tokens are left out, or in a prompt.
    """

    text: str
    shown: str


Symbol = str | MarkerToken  # a string is one character


class SymbolStream:
    """Cuts text that comes in pieces at the tokens that are markers."""

    def __init__(self, marker_texts: Mapping[int, str]) -> None:
        self._marker_texts = marker_texts
        self._position = 0
        self._waiting: deque[PlacedToken] = deque()

    def push(self, text: str, tokens: Iterable[PlacedToken]) -> list[Symbol]:
        """The symbols of the next text; strings have many characters.

        `tokens` are the next ones, in order, placed in all the text from the beginning: each is given with
        the text it is in, or before. A token's text comes whole, but where the answer ends within it: that is
        text."""
        self._waiting.extend(token for token in tokens if token.token_id in self._marker_texts)
        begin = at = self._position
        self._position += len(text)
        symbols: list[Symbol] = []
        while self._waiting and self._waiting[0].end <= self._position:
            token = self._waiting.popleft()
            symbols += [text[at - begin : token.start - begin], self._marker(token, text, begin)]
            at = token.end
        return [symbol for symbol in (*symbols, text[at - begin :]) if symbol]

    def _marker(self, token: PlacedToken, text: str, begin: int) -> MarkerToken:
        shown = text[token.start - begin : token.end - begin]
        return MarkerToken(self._marker_texts[token.token_id], shown)


def written(symbols: Iterable[Symbol]) -> str:
    """The text of symbols, markers as they are written."""
    return "".join(symbol if isinstance(symbol, str) else symbol.text for symbol in symbols)


def shown(symbols: Iterable[Symbol]) -> str:
    """The text of symbols, markers as the output has them."""
    return "".join(symbol if isinstance(symbol, str) else symbol.shown for symbol in symbols)
