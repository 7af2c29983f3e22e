"""Reasoning in front of a structured output."""

from collections.abc import Mapping

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.text.grammar.grammar_list import as_text, grammars_of
from jinfer.text.grammar.lark import ANY_TEXT, is_token, quoted, sequence, symbols


def after_reasoning(
    outputs: StructuredOutputs,
    added_tokens: Mapping[str, int],
    *,
    begin: str = "<think>",
    end: str = "</think>",
    is_open: bool,
) -> StructuredOutputs:
    """A grammar of free text up to `end`, some white space, and then what `outputs` asks for.

    One grammar sees every token, so that nothing has to notice where reasoning ends. Markers that are added
    tokens are matched by id, for text holds none of them. No end-of-sequence token is allowed within the
    reasoning. `is_open`: the prompt has `begin` already; else the output may begin with it, or not reason.
    """
    first, *others = grammars_of(outputs, added_tokens)
    name = f"answer_{len(others)}"
    opening = "" if is_open else f"({sequence(begin, added_tokens)} "
    rules = [
        f"start: {opening}reasoning GAP?{'' if is_open else ')?'} @{name}",
        r"GAP: /[ \n\r\t]{1,4}/",
        f"TEXT: {ANY_TEXT}",
        _reasoning_rule(end, added_tokens),
    ]
    return StructuredOutputs(
        grammar=as_text([{"lark_grammar": "\n".join(rules)}, {**first, "name": name}, *others])
    )


def _reasoning_rule(end: str, added_tokens: Mapping[str, int]) -> str:
    if is_token(symbols(end, added_tokens)[0]):
        return f"reasoning: TEXT {sequence(end, added_tokens)}"
    return f"reasoning[lazy]: TEXT {quoted(end)}"
