"""How families of models write a tool call, as data for a grammar.

The names are those of output_parsing's formats, which read what is written here. Sources: the chat templates
of Qwen/Qwen3-8B and NousResearch/Hermes-3-Llama-3.1-8B; meta-llama/llama-models, prompt_format.md;
mistralai/mistral-common, instruct tokenizers v3 and v11; the templates of deepseek-ai.
"""

from collections.abc import Collection
from dataclasses import dataclass


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


def _deepseek(name: str) -> str:
    """A token's text. DeepSeek writes a full-width bar, U+FF5C, and U+2581 between words."""
    return f"<\uff5c{name.replace('_', chr(0x2581))}\uff5c>"


_DEEPSEEK_FIRST, _DEEPSEEK_LAST = _deepseek("tool_calls_begin"), _deepseek("tool_calls_end")
_DEEPSEEK_BEGIN, _DEEPSEEK_END = _deepseek("tool_call_begin"), _deepseek("tool_call_end")

HERMES = ToolCallFormat(
    name="hermes",
    trigger="<tool_call>",
    begin='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    end="}\n</tool_call>",
    separator="\n",
)
LLAMA3_JSON = ToolCallFormat(
    name="llama3_json",
    trigger="{",
    begin='{"name": "',
    middle='", "parameters": ',
    end="}",
    separator="; ",
    may_follow_text=False,
)
MISTRAL = ToolCallFormat(
    name="mistral", trigger="[TOOL_CALLS]", begin="[TOOL_CALLS]", middle="[ARGS]", end=""
)
MISTRAL_LIST = ToolCallFormat(
    name="mistral",
    trigger="[TOOL_CALLS]",
    begin='{"name": "',
    middle='", "arguments": ',
    end="}",
    first="[TOOL_CALLS][",
    separator=", ",
    last="]",
)
DEEPSEEK_V3_1 = ToolCallFormat(
    name="deepseek_v3_1",
    trigger=_DEEPSEEK_FIRST,
    begin=_DEEPSEEK_BEGIN,
    middle=_deepseek("tool_sep"),
    end=_DEEPSEEK_END,
    first=_DEEPSEEK_FIRST,
    last=_DEEPSEEK_LAST,
)
DEEPSEEK_V3 = ToolCallFormat(
    name="deepseek_v3",
    trigger=_DEEPSEEK_FIRST,
    begin=f"{_DEEPSEEK_BEGIN}function{_deepseek('tool_sep')}",
    middle="\n```json\n",
    end=f"\n```{_DEEPSEEK_END}",
    first=_DEEPSEEK_FIRST,
    separator="\n",
    last=_DEEPSEEK_LAST,
)


def tool_call_format(name: str, added_tokens: Collection[str]) -> ToolCallFormat | None:
    """The format of a name of output_parsing's; None where it is not known, or arguments are not JSON in it.

    Mistral's tokenizers that have no token [ARGS] are older: their models write one list.
    """
    if name == MISTRAL.name:
        return MISTRAL if "[ARGS]" in added_tokens else MISTRAL_LIST
    return {known.name: known for known in (HERMES, LLAMA3_JSON, DEEPSEEK_V3, DEEPSEEK_V3_1)}.get(name)
