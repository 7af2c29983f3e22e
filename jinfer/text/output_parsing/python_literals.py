"""Python literals and calls, read without running or compiling anything.

A subset of the grammar in Python's reference, section 6: strings without prefix, numbers, True, False, None
(and JSON's true, false, null), lists, tuples, dictionaries, and calls with keyword arguments.
"""

import re
from typing import Any, NamedTuple

MAX_DEPTH = 50
MAX_CHARACTERS = 1_000_000
SPACE = re.compile(r"[ \t\r\n]*")
NAME = re.compile(r"[^\W\d][\w.\-]*")
STRING = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'", re.DOTALL)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
SIMPLE_ESCAPES = {
    **{character: character for character in "\\'\""},
    **dict(zip("ntrbfva0", "\n\t\r\b\f\v\a\0", strict=True)),
    "\n": "",
}
CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
CLOSING = {"[": "]", "(": ")", "{": "}"}


class PythonCall(NamedTuple):
    name: str
    arguments: dict[str, Any]


def read_literal(text: str) -> Any:
    """The value of a literal; tuples as lists. Raises ValueError for anything else."""
    reader = _LiteralReader(text)
    value = reader.value(MAX_DEPTH)
    reader.expect_end()
    return value


def read_call(text: str) -> PythonCall:
    """A call such as f(a="x", b=[1]). Raises ValueError for anything else."""
    reader = _LiteralReader(text)
    call = reader.call()
    reader.expect_end()
    return call


def read_calls(text: str) -> list[PythonCall]:
    """The calls in a list such as [f(a="x"), g()]. Raises ValueError for anything else."""
    reader = _LiteralReader(text)
    calls = reader.calls()
    reader.expect_end()
    return calls


class _LiteralReader:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"the literal has {len(text)} characters; at most {MAX_CHARACTERS} are read")
        self._text = text
        self._at = 0

    def value(self, depth: int) -> Any:
        if depth == 0:
            raise ValueError(f"the literal is nested more than {MAX_DEPTH} deep")
        character = self._peek()
        if character in ("'", '"'):
            return self._string()
        if character in ("[", "("):
            return self._list(depth)
        if character == "{":
            return self._dictionary(depth)
        if (number := self._match(NUMBER)) is not None:
            return _number(number)
        word = self._match(NAME)
        if word not in CONSTANTS:
            raise self._error("a value")
        return CONSTANTS[word]

    def call(self) -> PythonCall:
        name = self._name()
        self._expect("(")
        arguments: dict[str, Any] = {}
        while not self._skip(")"):
            key = self._name()
            self._expect("=")
            if key in arguments:
                raise ValueError(f"the argument {key!r} is given twice")
            arguments[key] = self.value(MAX_DEPTH)
            self._separate(")")
        return PythonCall(name, arguments)

    def calls(self) -> list[PythonCall]:
        self._expect("[")
        calls = []
        while not self._skip("]"):
            calls.append(self.call())
            self._separate("]")
        return calls

    def expect_end(self) -> None:
        if self._peek():
            raise self._error("the end")

    def _list(self, depth: int) -> list[Any]:
        close = CLOSING[self._text[self._at]]
        self._at += 1
        values = []
        while not self._skip(close):
            values.append(self.value(depth - 1))
            self._separate(close)
        return values

    def _dictionary(self, depth: int) -> dict[str, Any]:
        self._at += 1
        values = {}
        while not self._skip("}"):
            key = self.value(depth - 1)
            if not isinstance(key, str):
                raise self._error("a string for a key")
            self._expect(":")
            values[key] = self.value(depth - 1)
            self._separate("}")
        return values

    def _string(self) -> str:
        text = self._match(STRING)
        if text is None:
            raise self._error("a string with an end")
        return ESCAPE.sub(_unescaped, text[1:-1])

    def _name(self) -> str:
        name = self._match(NAME)
        if name is None:
            raise self._error("a name")
        return name

    def _separate(self, close: str) -> None:
        if self._peek() != close:
            self._expect(",")

    def _peek(self) -> str:
        space = SPACE.match(self._text, self._at)
        assert space is not None, "it matches nothing as well"
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        self._peek()
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match.group()

    def _skip(self, character: str) -> bool:
        is_there = self._peek() == character
        self._at += is_there
        return is_there

    def _expect(self, character: str) -> None:
        if not self._skip(character):
            raise self._error(repr(character))

    def _error(self, what: str) -> ValueError:
        return ValueError(f"the literal lacks {what} at character {self._at}")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _unescaped(match: re.Match[str]) -> str:
    *codes, character = match.groups()
    if character is not None:
        return SIMPLE_ESCAPES.get(character, "\\" + character)
    number = int(next(code for code in codes if code is not None), 16)
    if number > 0x10FFFF:
        raise ValueError(f"there is no character {number:#x}")
    return chr(number)
