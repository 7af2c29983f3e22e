"""The extent of a JSON value in text that comes in pieces."""

import re

STRUCTURE = re.compile(r'["\[\]{}]')
IN_STRING = re.compile(r'["\\]')
END_OF_SCALAR = re.compile(r"[,\]}\s]")


class JsonExtent:
    """Finds where a value ends, and checks no more of it than strings and the number of brackets."""

    def __init__(self) -> None:
        self.is_complete = False
        self.is_in_string = False
        self._is_scalar = False
        self._has_begun = False
        self._depth = 0
        self._is_escaped = False

    def push(self, text: str, start: int) -> int:
        """The end of what belongs to the value in the text from `start` on."""
        if not self._has_begun and start < len(text):
            self._has_begun = True
            self._is_scalar = text[start] not in '"[{'
        if self._is_scalar:
            end = END_OF_SCALAR.search(text, start)
            self.is_complete = end is not None
            return len(text) if end is None else end.start()
        while start < len(text) and not self.is_complete:
            start = self._in_string(text, start) if self.is_in_string else self._between(text, start)
        return start

    def _in_string(self, text: str, start: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return start + 1
        found = IN_STRING.search(text, start)
        if found is None:
            return len(text)
        self._is_escaped = found.group() == "\\"
        self.is_in_string = self._is_escaped
        self.is_complete = not self.is_in_string and self._depth == 0
        return found.end()

    def _between(self, text: str, start: int) -> int:
        found = STRUCTURE.search(text, start)
        if found is None:
            return len(text)
        character = found.group()
        self.is_in_string = character == '"'
        self._depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(character, 0)
        self.is_complete = not self.is_in_string and self._depth == 0
        return found.end()
