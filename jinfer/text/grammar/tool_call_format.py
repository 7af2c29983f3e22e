"""The ways in which families of models write a tool call, as data for a grammar.

The names are those of output_parsing's formats, which read what is written here. Sources: the chat templates
of Qwen/Qwen3-8B and NousResearch/Hermes-3-Llama-3.1-8B; meta-llama/llama-models, prompt_format.md;
mistralai/mistral-common, instruct tokenizers v3 and v11; the templates of deepseek-ai.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from jinfer.text.output_parsing import formats
from jinfer.text.output_parsing.formats import DEEPSEEK_CALL, DEEPSEEK_SEPARATOR, FORMATS, deepseek_token
from jinfer.text.output_parsing.response_format import Region, ResponseFormat, TextKind


@dataclass(frozen=True)
class ToolCallFormat:
    """Calls are first + call + separator + call + ... + last, where a call is begin + name + middle +
    arguments + end, and arguments are a JSON object. Parts that are added tokens of the tokenizer are matched
    by id.

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


def tool_call_format(name: str, added_tokens: Collection[str]) -> ToolCallFormat | None:
    """The format of a name of output_parsing's; None where it is not known, or arguments are not JSON in it.

    Mistral's tokenizers that have no token [ARGS] are older: their models write one list.
    """
    if name == MISTRAL.name:
        return MISTRAL if "[ARGS]" in added_tokens else MISTRAL_LIST
    return {known.name: known for known in (HERMES, LLAMA3_JSON, DEEPSEEK_V3, DEEPSEEK_V3_1)}.get(name)


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
