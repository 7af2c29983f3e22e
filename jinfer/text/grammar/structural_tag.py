"""Structural tags, in the form of vLLM's `structural_tag`: free text with tagged JSON in it."""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from jinfer.errors import RequestError, shown
from jinfer.text.grammar.lark import ANY_TEXT, is_token, quoted, sequence, symbols

NAME = "structured_outputs.structural_tag"


class TaggedGrammar(NamedTuple):
    """`begin`, then what the grammar called `body` matches, then `end`. Free text before goes up to the first
    `trigger`, with which `begin` begins."""

    trigger: str
    begin: str
    body: str
    end: str


def structural_tag_grammars(
    tag: Mapping[str, Any],
    added_tokens: Mapping[str, int],
    schema_grammar: Callable[[str, Any], Mapping[str, Any]],
) -> list[Mapping[str, Any]]:
    """The grammars of a structural tag. Raises RequestError where it is malformed."""
    structures, triggers = tag.get("structures", []), tag.get("triggers", [])
    if tag.get("type") != "structural_tag" or not _is_list(structures, dict) or not _is_list(triggers, str):
        raise RequestError(
            f'{NAME}={shown(tag)} must be {{"type": "structural_tag", "triggers": [texts], "structures": '
            '[{"begin": text, "schema": object, "end": text}]}, with at least one of each'
        )
    schemas, tagged = [], []
    for index, structure in enumerate(structures):
        where = f"{NAME}.structures[{index}]"
        begin, end = _text(where, structure, "begin"), _text(where, structure, "end")
        trigger = next((text for text in triggers if text and begin.startswith(text)), None)
        if trigger is None:
            raise RequestError(f"{where}.begin={shown(begin)} begins with none of the triggers; add one")
        tagged.append(TaggedGrammar(trigger, begin, f"body_{index}", end))
        schemas.append(
            {**schema_grammar(f"{where}.schema", structure.get("schema")), "name": f"body_{index}"}
        )
    return [{"lark_grammar": tagged_text(tagged, added_tokens)}, *schemas]


def tagged_text(tagged: list[TaggedGrammar], added_tokens: Mapping[str, int]) -> str:
    """The Lark grammar of free text with any number of tags in it.

    A trigger that begins with an added token is that token, which no text holds. Any other ends the text in
    front of it where it is written first: a lazy terminal.
    """
    rules = ["start: (tag)* TEXT", f"TEXT: {ANY_TEXT}"]
    names: list[str] = []
    for trigger, group in groupby(sorted(tagged), key=lambda one: one.trigger):
        number = len(names)
        names.append(f"tag_{number}")
        bodies = " | ".join(_body(one, len(trigger), added_tokens) for one in group)
        if is_token(symbols(trigger, added_tokens)[0]):
            lead = f"TEXT {sequence(trigger, added_tokens)}"
        else:
            rules.append(f"lead_{number}[lazy]: TEXT {quoted(trigger)}")
            lead = f"lead_{number}"
        rules.append(f"tag_{number}: {lead} ({bodies})")
    return "\n".join([*rules, f"tag: {' | '.join(names)}"])


def _body(one: TaggedGrammar, start: int, added_tokens: Mapping[str, int]) -> str:
    """The symbols behind the trigger."""
    return (
        f"{sequence(one.begin[start:], added_tokens)} @{one.body} {sequence(one.end, added_tokens)}".strip()
    )


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, kind) for item in value)


def _text(where: str, structure: Mapping[str, Any], key: str) -> str:
    if not isinstance(text := structure.get(key), str):
        raise RequestError(f"{where}.{key}={shown(text)} must be a text")
    return text
