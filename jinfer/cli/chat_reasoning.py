"""The reasoning and the content of an answer while it streams: `<think>` and `</think>` part them."""

import enum

OPENING, CLOSING = "<think>", "</think>"


class Part(enum.Enum):
    """The part of an answer that a text belongs to."""

    REASONING = "reasoning"
    CONTENT = "content"


Delta = tuple[Part, str]


class ReasoningSplitter:
    """Splits the text of one answer. An answer begins with its reasoning or has none: a mark that comes later
    is content.

    The marks, and the white space around them, are left out. Text is held back only while it may be the
    beginning of a mark.
    """

    def __init__(self, *, first_part: Part | None) -> None:
        """`first_part` is REASONING where the prompt ends with the opening mark, as some chat templates write
        it, and CONTENT where marks mean nothing. None finds it by the mark that the text begins with."""
        self._part = first_part
        self._follows_mark = first_part is Part.REASONING
        self._held = ""

    def add(self, text: str) -> list[Delta]:
        """The parts of the text that are certain now."""
        self._held += text
        return self._take(is_end=False)

    def finish(self) -> list[Delta]:
        """The text that is still held back."""
        return self._take(is_end=True)

    def _take(self, *, is_end: bool) -> list[Delta]:
        if self._part is None:
            self._begin(is_end=is_end)
        deltas: list[Delta] = []
        if self._part is Part.REASONING:
            before, mark, after = self._held.partition(CLOSING)
            num_open = 0 if mark or is_end else _num_open(before)
            deltas += self._emit(before[: len(before) - num_open])
            self._held = after if mark else before[len(before) - num_open :]
            if mark:
                self._part, self._follows_mark = Part.CONTENT, True
        if self._part is Part.CONTENT:
            deltas += self._emit(self._held)
            self._held = ""
        return deltas

    def _begin(self, *, is_end: bool) -> None:
        """Finds the part that the answer begins with, as soon as its first characters show it."""
        text = self._held.lstrip()
        if text.startswith(OPENING):
            self._part, self._follows_mark = Part.REASONING, True
            self._held = text.removeprefix(OPENING)
        elif is_end or not OPENING.startswith(text):
            self._part = Part.CONTENT

    def _emit(self, text: str) -> list[Delta]:
        assert self._part is not None
        if self._follows_mark:
            text = text.lstrip()
        if not text:
            return []
        self._follows_mark = False
        return [(self._part, text)]


def _num_open(text: str) -> int:
    """The length of the longest end of a text that the closing mark may begin with."""
    lengths = range(min(len(CLOSING) - 1, len(text)), 0, -1)
    return next((length for length in lengths if text.endswith(CLOSING[:length])), 0)
