"""Pieces of Lark grammars in llguidance's dialect (its docs/syntax.md)."""

import json
import re
from collections.abc import Mapping

ANY_TEXT = r"/(.|\n)*/"
"""A terminal for any text. It takes no added token: those are ids to llguidance, and not text."""


def quoted(text: str) -> str:
    """The Lark string of a text."""
    return json.dumps(text, ensure_ascii=False)


def symbols(text: str, added_tokens: Mapping[str, int]) -> list[str]:
    """The Lark symbols of a literal: added tokens by their ids, and text between them.

    In: "<tool_call>\\n{"  Out: ["<[151657]>", '"\\n{"'], where added_tokens is {"<tool_call>": 151657}.
    """
    names = sorted((name for name in added_tokens if name), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return [f"<[{added_tokens[part]}]>" if part in added_tokens else quoted(part) for part in parts if part]


def is_token(symbol: str) -> bool:
    """True for an added token among `symbols`."""
    return symbol.startswith("<[")


def sequence(text: str, added_tokens: Mapping[str, int]) -> str:
    """A literal as a part of a rule."""
    return " ".join(symbols(text, added_tokens))
