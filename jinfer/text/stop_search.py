"""Looks for stop strings in text that grows and whose beginning is given out."""

from collections.abc import Iterable
from typing import NamedTuple


class Found(NamedTuple):
    """A stop string in a text. Sorted, the one that begins first comes first, and of those the shortest."""

    start: int
    length: int  # of the stop string, which is longer than end - start where it holds special tokens
    end: int
    stop: str


class StopSearch:
    """Stop strings in the text that is held back, with the text of special tokens in it where they were
    inserted.

    Positions are those in the held text, to which an inserted token adds nothing:

        held text "Hi\\n", "<|end|>" inserted at 2; the stop string "<|end|>\\n" is found from 2 to 3
    """

    def __init__(self, stop: Iterable[str]) -> None:
        self._stop = sorted(stop, key=len)
        self._longest = len(self._stop[-1])
        self._first_characters = frozenset(word[0] for word in self._stop)
        self._inserted: list[tuple[int, str]] = []  # by rising position
        # characters, inserted ones included, in which none may end that is found from now on.
        self._num_searched = 0

    def insert(self, position: int, text: str) -> None:
        """Inserts a special token after `position` characters of the held text. Each comes after those
        before."""
        self._inserted.append((position, text))

    def find(self, text: str) -> Found | None:
        """The first stop string in the held text that ends in what was not searched before."""
        spliced = self._splice(text)
        found = []
        for stop in self._stop:
            start = spliced.find(stop, max(0, self._num_searched - len(stop) + 1))
            if start >= 0:
                found.append(Found(self._position(start), len(stop), self._position(start + len(stop)), stop))
        return min(found) if found else None

    def mark_searched(self, num_characters: int) -> None:
        """Stop strings that end in the first `num_characters`, or in a token inserted there, count no
        more."""
        if self._inserted:
            num_characters += sum(
                len(text) for position, text in self._inserted if position <= num_characters
            )
        self._num_searched = max(self._num_searched, num_characters)
        while self._inserted and self._is_out_of_reach(*self._inserted[0]):
            self._num_searched -= len(self._inserted.pop(0)[1])

    def move_back(self, position: int) -> None:
        """Moves tokens that were inserted after `position` to it, since the text after it may still
        change."""
        if self._inserted and self._inserted[-1][0] > position:
            self._inserted = [(min(at, position), text) for at, text in self._inserted]

    def num_open(self, text: str) -> int:
        """The length of the longest end of the held text that, with its special tokens, may begin a stop
        string.

        In: text "a\\n", stop string "\\n\\n"  Out: 1
        """
        spliced = self._splice(text)
        for start in range(max(0, len(spliced) - self._longest + 1), len(spliced)):
            if spliced[start] in self._first_characters:
                end = spliced[start:]
                if any(len(stop) > len(end) and stop.startswith(end) for stop in self._stop):
                    return len(text) - self._position(start)
        return 0

    def drop(self, num_characters: int) -> None:
        """Drops the first `num_characters` of the held text, which were given out."""
        num_dropped = num_characters
        if self._inserted:
            num_dropped += sum(len(text) for position, text in self._inserted if position < num_characters)
            self._inserted = [
                (at - num_characters, text) for at, text in self._inserted if at >= num_characters
            ]
        self._num_searched = max(0, self._num_searched - num_dropped)

    def _is_out_of_reach(self, position: int, text: str) -> bool:
        """True if no stop string that ends in later text can reach back to this first inserted token."""
        return position + len(text) <= self._num_searched - self._longest

    def _splice(self, text: str) -> str:
        if not self._inserted:
            return text
        parts = []
        at = 0
        for position, inserted in self._inserted:
            parts += [text[at:position], inserted]
            at = position
        return "".join([*parts, text[at:]])

    def _position(self, index: int) -> int:
        """The position in the held text of an index into the spliced text; within a token, that of the
        token."""
        for position, text in self._inserted:
            if index <= position:
                return index
            index = max(position, index - len(text))
        return index
