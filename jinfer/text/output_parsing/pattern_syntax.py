"""Regular expressions of formats, as trees.

The syntax is that of Python's `re` with DOTALL. What a search in a stream in linear time cannot do is
refused: lookaround, back references, anchors, possessive and atomic groups, flags.

In a tree, text that spells one of the tokenizer's added tokens is that token. So `<think>` in a pattern means
the token where there is one, and never the same characters written with other tokens.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

MAX_REPEATS = 100
CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
NUM_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
COUNTED = re.compile(r"\{(\d*)(,?)(\d*)\}")
GROUP_NAME = re.compile(r"\?P<(\w+)>")


@dataclass(frozen=True)
class OneOf:
    """One symbol: a character that the expression matches, or a token of which it matches each character."""

    expression: re.Pattern[str]


@dataclass(frozen=True)
class Exactly:
    """One character, or one token."""

    text: str
    is_token: bool = False


@dataclass(frozen=True)
class Chain:
    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Either:
    """The first of the choices that leads to a match."""

    choices: tuple["Node", ...]


@dataclass(frozen=True)
class Repeated:
    part: "Node"
    min_times: int
    max_times: int | None
    is_greedy: bool


@dataclass(frozen=True)
class Named:
    name: str
    part: "Node"


Node = OneOf | Exactly | Chain | Either | Repeated | Named


def literal(text: str, tokens: Collection[str]) -> Node:
    """The tree of a text."""
    return _with_tokens([Exactly(character) for character in text], tokens)


def parse_pattern(pattern: str, tokens: Collection[str]) -> Node:
    """The tree of a regular expression. Raises ValueError, with the reason, for one that is refused."""
    try:
        re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
    return _Reader(pattern, tokens).whole()


def _with_tokens(parts: list[Node], tokens: Collection[str]) -> Node:
    """Parts in order, with one part for characters that spell a token."""
    by_length = sorted(tokens, key=len, reverse=True)
    result: list[Node] = []
    for is_text, run in groupby(parts, key=lambda part: isinstance(part, Exactly)):
        nodes = list(run)
        result += _text_with_tokens("".join(map(_text, nodes)), by_length) if is_text else nodes
    return result[0] if len(result) == 1 else Chain(tuple(result))


def _text(part: Node) -> str:
    assert isinstance(part, Exactly)
    return part.text


def _text_with_tokens(text: str, by_length: list[str]) -> list[Node]:
    result: list[Node] = []
    at = 0
    while at < len(text):
        token = next((token for token in by_length if text.startswith(token, at)), None)
        result.append(Exactly(text[at]) if token is None else Exactly(token, is_token=True))
        at += len(token or text[at])
    return result


class _Reader:
    """Reads a pattern that `re` takes, so that its syntax is right."""

    def __init__(self, pattern: str, tokens: Collection[str]) -> None:
        self._pattern = pattern
        self._tokens = tokens
        self._at = 0

    def whole(self) -> Node:
        node = self._either()
        assert self._at == len(self._pattern), "re took the pattern"
        return node

    def _either(self) -> Node:
        choices = [self._in_order()]
        while self._skip("|"):
            choices.append(self._in_order())
        return choices[0] if len(choices) == 1 else Either(tuple(choices))

    def _in_order(self) -> Node:
        parts: list[Node] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return _with_tokens(parts, self._tokens)

    def _repeated(self, part: Node) -> Node:
        counts = self._counts()
        if counts is None:
            return part
        is_greedy = not self._skip("?")
        if self._pattern[self._at : self._at + 1] == "+":
            raise self._refusal("a possessive repeat")
        if max(counts[0], counts[1] or 0) > MAX_REPEATS:
            raise self._refusal(f"more than {MAX_REPEATS} counted repeats")
        return Repeated(part, *counts, is_greedy)

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, counts in {"*": (0, None), "+": (1, None), "?": (0, 1)}.items():
            if self._skip(sign):
                return counts
        match = COUNTED.match(self._pattern, self._at)
        if match is None or not any(match.groups()):
            return None
        self._at = match.end()
        least, comma, most = match.groups()
        return int(least or 0), (int(most) if most else None) if comma else int(least)

    def _atom(self) -> Node:
        character = self._pattern[self._at]
        if character in "^$":
            raise self._refusal("an anchor")
        if character == "(":
            return self._group()
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        self._at += 1
        return OneOf(re.compile(".", re.DOTALL)) if character == "." else Exactly(character)

    def _group(self) -> Node:
        self._at += 1
        name = GROUP_NAME.match(self._pattern, self._at)
        if name is not None:
            self._at = name.end()
        elif self._pattern.startswith("?", self._at) and not self._skip("?:"):
            raise self._refusal("lookaround, a flag or another extension")
        part = self._either()
        self._at += 1
        return part if name is None else Named(name.group(1), part)

    def _class(self) -> Node:
        end = self._at + 1
        end += self._pattern.startswith("^", end)
        end += self._pattern.startswith("]", end)
        while self._pattern[end] != "]":
            end += 2 if self._pattern[end] == "\\" else 1
        text = self._pattern[self._at : end + 1]
        self._at = end + 1
        return OneOf(re.compile(text, re.DOTALL))

    def _escape(self) -> Node:
        kind = self._pattern[self._at + 1]
        self._at += 2
        if kind in "dDsSwW":
            return OneOf(re.compile("\\" + kind))
        if num_digits := NUM_HEX_DIGITS.get(kind):
            self._at += num_digits
            return Exactly(chr(int(self._pattern[self._at - num_digits : self._at], 16)))
        if kind.isascii() and kind.isalnum() and kind not in CONTROL:
            raise self._refusal(f"\\{kind}")
        return Exactly(CONTROL.get(kind, kind))

    def _skip(self, text: str) -> bool:
        is_there = self._pattern.startswith(text, self._at)
        self._at += len(text) if is_there else 0
        return is_there

    def _refusal(self, what: str) -> ValueError:
        return ValueError(
            f"the pattern {self._pattern!r} has {what} at character {self._at}, which a search in a stream "
            "does not know; write it without"
        )
