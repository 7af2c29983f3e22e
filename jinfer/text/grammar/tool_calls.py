"""The grammar of an answer that calls tools, as the model's family writes calls."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinfer.errors import RequestError, shown
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.text.grammar.grammar_list import Grammar, as_text, grammars_of, schema_grammar
from jinfer.text.grammar.lark import ANY_TEXT, is_token, quoted, sequence, symbols
from jinfer.text.grammar.named_arguments import NamedArgumentRules
from jinfer.text.grammar.tool_call_format import ToolCallFormat

NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


TOOL_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # so that it is itself in JSON and in any format


@dataclass(frozen=True)
class ToolChoice:
    """OpenAI's tool_choice and parallel_tool_calls. `name` is of the one tool to call; with
    `is_required` at least one tool is called, and else text may stand for calls or before them."""

    is_required: bool = False
    name: str | None = None
    is_parallel: bool = True

    @property
    def is_forced(self) -> bool:
        """True if an answer without a call is none."""
        return self.is_required or self.name is not None


@dataclass(frozen=True)
class Tool:
    """A function: its name, the schema of its arguments, and whether they must fit it."""

    name: str
    parameters: Mapping[str, Any]
    is_strict: bool


def tool_call_grammar(
    call_format: ToolCallFormat,
    tools: Sequence[Mapping[str, Any]],
    choice: ToolChoice,
    added_tokens: Mapping[str, int],
    *,
    text: StructuredOutputs | None = None,
) -> StructuredOutputs | None:
    """The grammar of the whole answer, reasoning excluded; None where nothing is asked for: tools are not
    required, none is strict, and there is no rule for text.

    tools: in the form of OpenAI's "tools". A strict tool's arguments fit its schema, and so do those of any
    tool that must be called; others are any JSON object, or, where the format writes arguments by name, any
    values of those that the schema names. added_tokens: the tokenizer's, by their texts. text: the rule of a
    text that stands for calls; none stands before them then. Raises RequestError for a malformed tool, for a
    name that is no tool's, and for a schema whose arguments the format cannot write.
    """
    known = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    is_required = choice.is_forced
    if not is_required and text is None and not any(tool.is_strict for tool in known):
        return None
    offered = [tool for tool in known if choice.name in (None, tool.name)]
    if not offered:
        names = ", ".join(tool.name for tool in known) or "not given"
        asked = "a call" if choice.name is None else f"a call of {shown(choice.name)}"
        raise RequestError(
            f"tool_choice asks for {asked}, and the tools are {names}; give the tool, or name one"
        )
    arguments = _arguments(call_format, offered, must_fit=is_required)
    functions = [
        f"{quoted(tool.name)} {sequence(call_format.middle, added_tokens)} {symbols}"
        for tool, symbols in zip(offered, arguments.symbols, strict=True)
    ]
    texts = [] if text is None or is_required else _named(grammars_of(text, added_tokens))
    rules = [
        *(
            [f"start: {sequence(call_format.trigger, added_tokens)} calls | @{texts[0]['name']}"]
            if texts
            else _start(call_format, is_required=is_required, added_tokens=added_tokens)
        ),
        _calls(
            call_format,
            is_single=choice.name is not None or not choice.is_parallel,
            added_tokens=added_tokens,
        ),
        f"function: {' | '.join(functions)}",
        *(f"{name}: {body}" for name, body in arguments.rules.items()),
    ]
    return StructuredOutputs(
        grammar=as_text([{"lark_grammar": "\n".join(rules)}, *arguments.grammars, *texts])
    )


def _named(grammars: list[Grammar]) -> list[Grammar]:
    """The grammars of a text, of which the first has a name that none of them refers to."""
    first, *others = grammars
    return [{**first, "name": f"text_{len(others)}"}, *others]


def _tool(tool: Any, where: str) -> Tool:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str):
        form = '{"type": "function", "function": {"name": text}}'
        raise _bad_tool(f"{where}={shown(tool)} must be {form}")
    if not TOOL_NAME.fullmatch(name):
        raise _bad_tool(
            f"{where} has the name {shown(name)}; a name is of 1 to 64 letters, digits and _ - . : characters"
        )
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise _bad_tool(f"{where}.function.parameters={shown(parameters)} must be a JSON schema")
    return Tool(name, parameters or NO_PARAMETERS, function.get("strict") is True)


def _bad_tool(message: str) -> RequestError:
    return RequestError(message, param="tools")


class _Arguments(NamedTuple):
    """The symbols of each tool's arguments, and the rules and grammars to which they refer."""

    symbols: list[str]
    rules: dict[str, str]
    grammars: list[Grammar]


def _arguments(call_format: ToolCallFormat, tools: Sequence[Tool], *, must_fit: bool) -> _Arguments:
    found = _Arguments([], {}, [])
    for index, tool in enumerate(tools):
        tool_must_fit = must_fit or tool.is_strict
        if call_format.named_arguments is None:
            name = f"arguments_{index}"
            found.grammars.append({**_json_arguments(tool, must_fit=tool_must_fit), "name": name})
            found.symbols.append(f"@{name}")
        else:
            named = NamedArgumentRules(
                call_format.named_arguments,
                found.rules,
                tool=tool.name,
                parameters=tool.parameters,
                name=f"a{index}",  # short, for a grammar has a bounded size and some names for each property
            )
            found.symbols.append(named.symbols(must_fit=tool_must_fit))
    return found


def _json_arguments(tool: Tool, *, must_fit: bool) -> Grammar:
    schema = {"type": "object", **tool.parameters} if must_fit else {"type": "object"}
    return schema_grammar(f"the parameters of the tool {tool.name!r}", schema)


def _start(call_format: ToolCallFormat, *, is_required: bool, added_tokens: Mapping[str, int]) -> list[str]:
    """The rules of an answer up to the end of the first call's trigger, and of text that stands for calls."""
    trigger = sequence(call_format.trigger, added_tokens)
    if is_required:
        return [f"start: {trigger} calls"]
    if not call_format.may_follow_text:
        return [f"start: {trigger} calls | OTHER?", rf"OTHER: /[^\{call_format.trigger[0]}\s](.|\n)*/"]
    text = f"TEXT: {ANY_TEXT}"
    if is_token(symbols(call_format.trigger, added_tokens)[0]):
        return [f"start: TEXT ({trigger} calls)?", text]
    # The lazy terminal ends text where the trigger is written first.
    return ["start: lead calls | TEXT", f"lead[lazy]: TEXT {quoted(call_format.trigger)}", text]


def _calls(call_format: ToolCallFormat, *, is_single: bool, added_tokens: Mapping[str, int]) -> str:
    """The rule of calls behind the first one's trigger."""
    opening = (call_format.first + call_format.begin).removeprefix(call_format.trigger)
    end = sequence(call_format.end, added_tokens)
    another = sequence(call_format.separator + call_format.begin, added_tokens)
    more = "" if is_single else f"({another} function {end})*"
    last = sequence(call_format.last, added_tokens)
    return f"calls: {sequence(opening, added_tokens)} function {end} {more} {last}"
