"""The ways in which families of models write a tool call, as data for a grammar.

The names are those of output_parsing's formats, which read what is written here. Sources: the chat templates
of Qwen/Qwen3-8B, Qwen/Qwen3-Coder-30B-A3B-Instruct and NousResearch/Hermes-3-Llama-3.1-8B;
meta-llama/llama-models, prompt_format.md; mistralai/mistral-common, instruct tokenizers v3 and v11; the
templates of deepseek-ai.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from jinfer.text.output_parsing import formats
from jinfer.text.output_parsing.formats import DEEPSEEK_CALL, DEEPSEEK_SEPARATOR, FORMATS, deepseek_token
from jinfer.text.output_parsing.response_format import Region, ResponseFormat, TextKind


@dataclass(frozen=True)
class NamedArguments:
    """Arguments that are no JSON object: argument + separator + argument + ..., in the order of the schema's
    properties, where an argument is begin + name + middle + value + end.

    Values are JSON, but for the words `true`, `false` and `null`, and for the `quotes` of texts. With
    `has_bare_text` a text that is an argument stands without quotes, and the reader knows by the tool's
    schema that it is one. No value has one of the `excluded` texts in it: there the reader would end.
    Functions and arguments have names that match `function_names` and `names`.
    """

    begin: str
    middle: str
    end: str
    separator: str
    true: str
    false: str
    null: str
    quotes: str
    names: re.Pattern[str]
    function_names: re.Pattern[str]
    has_bare_text: bool = False
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolCallFormat:
    """Calls are first + call + separator + call + ... + last, where a call is begin + name + middle +
    arguments + end, and arguments are a JSON object, or as `named_arguments` says. Parts that are added
    tokens of the tokenizer are matched by id.

    `trigger` is the beginning of first + begin that no other text has. With `may_follow_text` text may come
    before it; else an answer is either text or calls.
    """

    name: str
    trigger: str
    begin: str
    middle: str
    end: str
    first: str = ""
    separator: str = ""
    last: str = ""
    may_follow_text: bool = True
    named_arguments: NamedArguments | None = None


_DEEPSEEK_FIRST, _DEEPSEEK_END = deepseek_token("tool_calls_begin"), deepseek_token("tool_call_end")

HERMES = ToolCallFormat(
    name=formats.HERMES.name,
    trigger="<tool_call>",
    begin='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    end="}\n</tool_call>",
    separator="\n",
)
LLAMA3_JSON = ToolCallFormat(
    name=formats.LLAMA3_JSON.name,
    trigger="{",
    begin='{"name": "',
    middle='", "parameters": ',
    end="}",
    separator="; ",
    may_follow_text=False,
)
MISTRAL = ToolCallFormat(
    name=formats.MISTRAL.name, trigger="[TOOL_CALLS]", begin="[TOOL_CALLS]", middle="[ARGS]", end=""
)
MISTRAL_LIST = ToolCallFormat(
    name=formats.MISTRAL.name,
    trigger="[TOOL_CALLS]",
    begin='{"name": "',
    middle='", "arguments": ',
    end="}",
    first="[TOOL_CALLS][",
    separator=", ",
    last="]",
)
DEEPSEEK_V3_1 = ToolCallFormat(
    name=formats.DEEPSEEK_V3_1.name,
    trigger=_DEEPSEEK_FIRST,
    begin=DEEPSEEK_CALL,
    middle=DEEPSEEK_SEPARATOR,
    end=_DEEPSEEK_END,
    first=_DEEPSEEK_FIRST,
    last=deepseek_token("tool_calls_end"),
)
DEEPSEEK_V3 = replace(  # the same tokens, around a fence
    DEEPSEEK_V3_1,
    name=formats.DEEPSEEK_V3.name,
    begin=f"{DEEPSEEK_CALL}function{DEEPSEEK_SEPARATOR}",
    middle="\n```json\n",
    end=f"\n```{_DEEPSEEK_END}",
    separator="\n",
)

LLAMA_PYTHONIC = ToolCallFormat(
    name=formats.LLAMA_PYTHONIC.name,
    trigger="[",
    begin="",
    middle="(",
    end=")",
    first="[",
    separator=", ",
    last="]",
    may_follow_text=False,
    named_arguments=NamedArguments(
        begin="",
        middle="=",
        end="",
        separator=", ",
        true="True",
        false="False",
        null="None",
        quotes="\"'",
        names=re.compile(r"[^\W\d]\w*"),
        function_names=re.compile(r"[A-Za-z_][\w.-]*"),
    ),
)
QWEN3_CODER = ToolCallFormat(
    name=formats.QWEN3_CODER.name,
    trigger="<tool_call>",
    begin="<tool_call>\n<function=",
    middle=">\n",
    end="</function>\n</tool_call>",
    separator="\n",
    named_arguments=NamedArguments(
        begin="<parameter=",
        middle=">\n",
        end="\n</parameter>\n",
        separator="",
        true="true",
        false="false",
        null="null",
        quotes='"',
        names=re.compile(r"[^\s<>\ud800-\udfff]{1,256}"),
        function_names=re.compile(r".+"),
        has_bare_text=True,
        excluded=("</parameter>", "</tool_call>"),
    ),
)


def tool_call_format(name: str, added_tokens: Collection[str]) -> ToolCallFormat | None:
    """The format of a name of output_parsing's; None where it is not known.

    Mistral's tokenizers that have no token [ARGS] are older: their models write one list.
    """
    if name == MISTRAL.name:
        return MISTRAL if "[ARGS]" in added_tokens else MISTRAL_LIST
    known = (HERMES, LLAMA3_JSON, LLAMA_PYTHONIC, QWEN3_CODER, DEEPSEEK_V3, DEEPSEEK_V3_1)
    return {one.name: one for one in known}.get(name)


def forced_call_format(
    response_format: ResponseFormat, added_tokens: Collection[str]
) -> ToolCallFormat | None:
    """The format in which calls can be forced so that `response_format` reads them, whatever its reasoning
    is."""
    calls = _call_regions(response_format)
    names = [name for name, known in FORMATS.items() if calls and _call_regions(known) == calls]
    return next((found for name in names if (found := tool_call_format(name, added_tokens))), None)


def _call_regions(response_format: ResponseFormat) -> list[Region]:
    return [region for region in response_format.regions if region.kind is TextKind.TOOL_CALLS]
