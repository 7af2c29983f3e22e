"""The Lark terminals of texts and numbers as values, and the texts of constants."""

from collections.abc import Sequence
from typing import Any

from jinfer.text.grammar.lark import quoted
from jinfer.text.grammar.tool_call_format import NamedArguments
from jinfer.text.output_parsing.plain_json import is_encodable, json_text

INTEGER = "/-?(0|[1-9][0-9]{0,17})/"
NUMBER = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+\-]?[0-9]{1,2})?/"
"""Neither is beyond what readers take: a float is below 1e308, and Python reads no int of 4,300 digits."""
NO_SURROGATE = "u([0-9A-CE-Fa-ce-f][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2})"


def times(minimum: int, maximum: int | None) -> str:
    """The repetition of the symbol before it, as Lark and regular expressions write it."""
    if maximum is None and minimum == 0:
        return "*"
    return f"{{{minimum},{'' if maximum is None else maximum}}}"


def string_terminal(syntax: NamedArguments, repeat: str = "*") -> str:
    """A text in quotes, with escapes that JSON and Python read alike. `repeat` is of its characters."""
    forms = [
        rf"/{quote}([^{quote}\\\x00-\x1f\x7f]|\\([{quote}\\bfnrt]|{NO_SURROGATE})){repeat}{quote}/"
        for quote in syntax.quotes
    ]
    return _without(f"({' | '.join(forms)})", syntax.excluded)


def bare_text(syntax: NamedArguments, repeat: str = "*") -> str:
    """A text without quotes, and the end of its argument."""
    text = _without(rf"/(.|\n){repeat}/", syntax.excluded)
    return f"({text}) {quoted(syntax.end)}"


def constants(syntax: NamedArguments, value: Any, *, is_bare: bool) -> list[str]:
    """The Lark strings of a constant: one for each way to quote a text. A bare one includes the end of its
    argument. Raises ValueError where it cannot be written."""
    text = value if is_bare else _constant(syntax, value)
    if not is_encodable(text):
        raise ValueError("there is a character that no UTF-8 has")
    if any(one in text for one in syntax.excluded):
        raise ValueError(f"a value cannot have {' or '.join(syntax.excluded)} in it")
    if is_bare:
        return [quoted(text + syntax.end)]
    single = text[1:-1].replace('\\"', '"').replace("'", "\\'")
    return [
        quoted(text if quote == '"' else f"'{single}'")
        for quote in (syntax.quotes if isinstance(value, str) else '"')
    ]


def _constant(syntax: NamedArguments, value: Any) -> str:
    if value is None:
        return syntax.null
    if isinstance(value, bool):
        return syntax.true if value else syntax.false
    if isinstance(value, list):
        return f"[{', '.join(_constant(syntax, one) for one in value)}]"
    if isinstance(value, dict):
        pairs = (f"{json_text(key)}: {_constant(syntax, one)}" for key, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    return json_text(value)


def _without(terminal: str, excluded: Sequence[str]) -> str:
    parts = [rf"~/(.|\n)*{_escaped(text)}(.|\n)*/" for text in excluded]
    return " & ".join([terminal, *parts])


def _escaped(text: str) -> str:
    return text.replace("/", r"\/")  # nothing else in such texts means anything to an expression
