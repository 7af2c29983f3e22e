"""The grammar of an answer of chat: reasoning first, as the model writes it, then a structure or calls."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinfer.errors import RequestError
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.text.grammar.reasoning import after_reasoning
from jinfer.text.grammar.tool_call_format import forced_call_format
from jinfer.text.grammar.tool_calls import ToolChoice, tool_call_grammar
from jinfer.text.output_parsing.answer_parsing import AnswerParsing
from jinfer.text.output_parsing.response_format import Marker, Region, TextKind


def answer_grammar(
    parsing: AnswerParsing,
    prompt_token_ids: Sequence[int],
    *,
    structure: StructuredOutputs | None,
    tools: Sequence[Mapping[str, Any]] | None,
    choice: ToolChoice,
) -> StructuredOutputs | None:
    """The grammar of an answer to a prompt; None where nothing is asked for.

    structure: the rule of the answer's content. tools: those that are offered, in OpenAI's form. Raises
    RequestError where the model's format of answers has no grammar for what is asked.
    """
    grammar = structure if not tools else _with_calls(parsing, structure, tools, choice)
    if grammar is None:
        return None
    if any(region.kind is TextKind.CONTENT for region in parsing.response_format.regions):
        raise _framed(parsing)
    place = parsing.place(prompt_token_ids)
    region = _reasoning(parsing, place.region)
    if region is None or (place.has_begun and place.region is None):
        return grammar
    return after_reasoning(
        grammar,
        parsing.tokenizer.added_tokens,
        begin=_text(region.open, parsing),
        end=_text(region.close, parsing),
        is_open=place.region is not None,
    )


def _with_calls(
    parsing: AnswerParsing,
    structure: StructuredOutputs | None,
    tools: Sequence[Mapping[str, Any]],
    choice: ToolChoice,
) -> StructuredOutputs | None:
    is_strict = any((tool.get("function") or tool).get("strict") is True for tool in tools)
    if structure is None and not choice.is_forced and not is_strict:
        return None
    added_tokens = parsing.tokenizer.added_tokens
    call_format = forced_call_format(parsing.response_format, added_tokens)
    if call_format is None:
        raise RequestError(
            f"no grammar is known of the format {parsing.response_format.name!r}, in which the model writes "
            "calls, so that neither they nor their arguments can be forced; choose tool_choice 'auto', "
            "no strict tools, and no response_format beside tools",
            param="tools",
        )
    return tool_call_grammar(call_format, tools, choice, added_tokens, text=structure)


def _reasoning(parsing: AnswerParsing, here: Region | None) -> Region | None:
    """The region of reasoning that comes first: the one that the prompt began, or one that the model may
    begin. None where it writes none, or the prompt ends elsewhere."""
    if here is not None:
        return here if here.kind is TextKind.REASONING else None
    tokenizer = parsing.tokenizer
    known = "\n".join((*tokenizer.chat_templates.values(), *tokenizer.added_tokens))
    regions = [one for one in parsing.response_format.regions if one.kind is TextKind.REASONING]
    return next(
        (one for one in regions if one.close is not None and _text(one.close, parsing) in known), None
    )


def _text(marker: Marker | None, parsing: AnswerParsing) -> str:
    if marker is None or not marker.texts:
        raise _framed(parsing)
    return marker.texts[0]


def _framed(parsing: AnswerParsing) -> RequestError:
    return RequestError(
        f"no grammar is known of the format {parsing.response_format.name!r}, in which the model frames the "
        "parts of its answers; leave response_format, structured_outputs, strict tools and forced calls out"
    )
