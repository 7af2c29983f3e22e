"""Text of one kind in an answer, without the white space that belongs to markers."""

from collections.abc import Callable


class TextWriter:
    """Gives text to a callback as it comes, but white space only with text behind it.

    A part of the text ends at a marker. White space beside a marker is left out; at the beginning and the end
    of the answer it stays.
    """

    def __init__(self, give: Callable[[str], None], *, is_stripped: bool) -> None:
        self._give = give
        self._space = ""  # not given, because a marker may follow
        self._between = ""  # comes before the part's first text
        self._drops_space = False  # the next text follows a marker
        self._is_stripped = is_stripped
        self.is_empty = True

    def begin_part(self, *, between: str, is_stripped: bool) -> None:
        """The next text follows a marker; `between` parts that have text comes some."""
        self._between = "" if self.is_empty else between
        self._drops_space = self._is_stripped = is_stripped
        self._space = ""

    def write(self, text: str) -> None:
        """Adds text to the part."""
        if self._drops_space:
            text = text.lstrip()
        if not text:
            return
        self._drops_space = False
        end = len(text.rstrip()) if self._is_stripped else len(text)
        if end:
            self._give(self._between + self._space + text[:end])
            self._between = self._space = ""
            self.is_empty = False
        self._space += text[end:]

    def end_part(self) -> str:
        """Ends the part at a marker. Returns the white space before it."""
        space, self._space = self._space, ""
        return space

    def resume(self, text: str) -> None:
        """Goes on with a part as if it had not ended, with text that looked like a marker first."""
        self._drops_space = False
        self.write(text)

    def finish(self) -> None:
        """The end of the answer."""
        if self._space:
            self._give(self._between + self._space)
            self._space = ""
