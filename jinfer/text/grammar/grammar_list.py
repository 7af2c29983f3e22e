"""Structured outputs as what llguidance compiles: a list of grammars, of which the first is the output."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinfer.errors import RequestError, shown
from jinfer.requests.structured_outputs import StructuredOutputs, json_object_of
from jinfer.text.grammar.lark import quoted
from jinfer.text.grammar.library import llguidance
from jinfer.text.grammar.structural_tag import structural_tag_grammars

Grammar = Mapping[str, Any]
"""{"lark_grammar": text} or {"json_schema": object}, with a "name" if another refers to it as @name."""

WHITESPACE_PATTERN = r"[\x20\x0A\x0D\x09]{1,8}"
"""Between two parts of a JSON text. Without a bound, models write white space until max_tokens."""
GUIDANCE = "x-guidance"


def grammar_text(outputs: StructuredOutputs, added_tokens: Mapping[str, int]) -> str:
    """The text that llguidance compiles. `added_tokens` are the tokenizer's, by their texts."""
    return as_text(grammars_of(outputs, added_tokens))


def as_text(grammars: list[Grammar]) -> str:
    """A list of grammars as the text that llguidance reads."""
    return json.dumps({"grammars": grammars}, ensure_ascii=False)


def grammars_of(outputs: StructuredOutputs, added_tokens: Mapping[str, int]) -> list[Grammar]:
    """The grammars. Raises RequestError for what is malformed; llguidance finds the rest."""
    if outputs.json is not None:
        return [schema_grammar("structured_outputs.json", outputs.json)]
    if outputs.json_object:
        return [schema_grammar("structured_outputs.json_object", {"type": "object"})]
    if outputs.regex is not None:
        return [{"lark_grammar": _lark_of_regex(outputs.regex)}]
    if outputs.choice is not None:
        return [{"lark_grammar": _lark_of_choice(outputs.choice)}]
    if outputs.grammar is not None:
        return _given_grammars(outputs.grammar)
    tag = json_object_of("structured_outputs.structural_tag", outputs.structural_tag)
    return structural_tag_grammars(tag, added_tokens, schema_grammar)


SchemaGrammar = Callable[[str, Mapping[str, Any] | str], Grammar]


def schema_grammar(name: str, schema: Mapping[str, Any] | str) -> Grammar:
    """The grammar of a JSON schema, with white space bounded unless the schema's own x-guidance says
    otherwise. Raises RequestError, under `name`, for what is no JSON object, and for x-guidance that would
    skip what llguidance cannot keep."""
    schema = json_object_of(name, schema)
    options = schema.get(GUIDANCE, {})
    if not isinstance(options, dict):
        raise RequestError(f"{name} has {GUIDANCE}={shown(options)}; it must be an object")
    if options.get("lenient") or options.get("coerce_one_of"):
        raise RequestError(
            f"{name} has {GUIDANCE}={shown(options)}; lenient and coerce_one_of give outputs that do not fit "
            "the schema: leave them out, and the keywords that llguidance does not know too"
        )
    return {"json_schema": {**schema, GUIDANCE: {"whitespace_pattern": WHITESPACE_PATTERN, **options}}}


def _lark_of_choice(texts: Sequence[str]) -> str:
    """One terminal, for each alternative of a rule is an item of the parser's, which has too few for some
    thousand. A terminal does not match the empty text."""
    choices = " | ".join(quoted(text) for text in texts if text)
    if not choices:
        return 'start: ""'
    return f"start: CHOICE{'?' if '' in texts else ''}\nCHOICE: {choices}"


def _lark_of_regex(expression: str) -> str:
    return json.loads(llguidance().LLMatcher.grammar_from_regex(expression))["grammars"][0]["lark_grammar"]


def _given_grammars(text: str) -> list[Grammar]:
    if not text.lstrip().startswith("{"):
        return [{"lark_grammar": text}]
    grammars = json_object_of("structured_outputs.grammar", text).get("grammars")
    if not isinstance(grammars, list) or not grammars or not all(isinstance(one, dict) for one in grammars):
        raise RequestError(
            f"structured_outputs.grammar={shown(text)} must be Lark, or an object whose 'grammars' is a list "
            "of objects with a 'lark_grammar' or a 'json_schema'"
        )
    return grammars
