"""The formats of the families that jinfer knows.

Each is what the family's chat template teaches the model to write:

    Hermes, Qwen2.5, Qwen3          NousResearch/Hermes-Function-Calling; the template of Qwen/Qwen3-8B
    Qwen3-Coder, Qwen3.5            the template of Qwen/Qwen3-Coder-30B-A3B-Instruct
    Llama 3.1 to 4                  meta-llama/llama-models, prompt_format.md
    Mistral                         mistralai/mistral-common, instruct tokenizers v3 to v13
    DeepSeek-R1, -V3, -V3.1         the templates of deepseek-ai
    gpt-oss                         openai/openai-cookbook, openai-harmony.md
"""

from dataclasses import replace

from jinfer.text.output_parsing.response_format import (
    CallSyntax,
    FunctionXmlCall,
    HeadedJsonCall,
    JsonCalls,
    Marker,
    PythonCalls,
    Region,
    ResponseFormat,
    TextKind,
)

NUM_MISTRAL_ID_CHARACTERS = 9


def deepseek_token(name: str) -> str:
    """A token's text. DeepSeek writes a full-width bar, U+FF5C, and U+2581 between words."""
    return f"<\uff5c{name.replace('_', chr(0x2581))}\uff5c>"


DEEPSEEK_CALL = deepseek_token("tool_call_begin")
DEEPSEEK_SEPARATOR = deepseek_token("tool_sep")

ASSISTANT = (
    Marker(("<|im_start|>assistant\n",)),
    Marker(
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|header_start|>assistant<|header_end|>\n\n")
    ),
    Marker(("[/INST]", "[/TOOL_RESULTS]")),
    Marker((deepseek_token("Assistant"), deepseek_token("tool_outputs_end"))),
    Marker(("<|start|>assistant",)),
    Marker(("<|assistant|>", "<start_of_turn>model\n")),
)
"""The openings of an assistant's message in chat templates of any family: two families may share a format."""

HARMONY_MESSAGE = r"(?:(?:<\|start\|>)?assistant)?"
HARMONY_TYPE = r" ?(?:<\|constrain\|>)?\w*<\|message\|>"
HARMONY_NAME = r" ?to=(?:functions\.)?(?P<name>[^\s<]+)"
HARMONY_END = Marker(("<|end|>", "<|return|>", "<|call|>"))


def _between(kind: TextKind, begin: str, end: str, calls: CallSyntax | None = None) -> Region:
    return Region(kind, Marker((begin,)), Marker((end,)), calls)


def _harmony(kind: TextKind, pattern: str, calls: CallSyntax | None = None) -> Region:
    return Region(kind, Marker(pattern=HARMONY_MESSAGE + pattern), HARMONY_END, calls)


THINK = _between(TextKind.REASONING, "<think>", "</think>")

PLAIN = ResponseFormat("plain", (), ASSISTANT)

THINKING = ResponseFormat("think", (THINK,), ASSISTANT)

HERMES = ResponseFormat(
    "hermes",
    (THINK, _between(TextKind.TOOL_CALLS, "<tool_call>", "</tool_call>", JsonCalls())),
    ASSISTANT,
)

QWEN3_CODER = ResponseFormat(
    "qwen3_coder",
    (THINK, _between(TextKind.TOOL_CALLS, "<tool_call>", "</tool_call>", FunctionXmlCall())),
    ASSISTANT,
)

LLAMA3_JSON = ResponseFormat(
    "llama3_json",
    (
        THINK,
        Region(TextKind.TOOL_CALLS, Marker(("<|python_tag|>",)), calls=JsonCalls(separators=";,")),
        Region(
            TextKind.TOOL_CALLS,
            Marker(("{",)),
            calls=JsonCalls(separators=";,", is_strict=True),
            holds_opening=True,
            only_first=True,
        ),
    ),
    ASSISTANT,
)

LLAMA_PYTHONIC = ResponseFormat(
    "llama_pythonic",
    (
        THINK,
        Region(
            TextKind.TOOL_CALLS,
            Marker(("<|python_tag|>", "<|python_start|>")),
            Marker(("<|python_end|>",)),
            PythonCalls(),
        ),
        Region(TextKind.TOOL_CALLS, Marker(("[",)), calls=PythonCalls(), holds_opening=True, only_first=True),
    ),
    ASSISTANT,
)

MISTRAL = ResponseFormat(
    "mistral",
    (
        _between(TextKind.REASONING, "[THINK]", "[/THINK]"),
        THINK,
        Region(
            TextKind.TOOL_CALLS,
            Marker(("[TOOL_CALLS]",)),
            calls=HeadedJsonCall(name_before=("[CALL_ID]", "[ARGS]"), may_be_list=True),
        ),
    ),
    ASSISTANT,
    call_id_length=NUM_MISTRAL_ID_CHARACTERS,
)

DEEPSEEK_V3 = ResponseFormat(
    "deepseek_v3",
    (
        THINK,
        _between(
            TextKind.TOOL_CALLS,
            DEEPSEEK_CALL,
            deepseek_token("tool_call_end"),
            HeadedJsonCall(name_after=f"function{DEEPSEEK_SEPARATOR}", name_before=("\n",), trailer="`"),
        ),
    ),
    ASSISTANT,
    ignored=(Marker((deepseek_token("tool_calls_begin"), deepseek_token("tool_calls_end"))),),
)

DEEPSEEK_V3_1 = replace(
    DEEPSEEK_V3,
    name="deepseek_v3_1",
    regions=(THINK, replace(DEEPSEEK_V3.regions[1], calls=HeadedJsonCall(name_before=(DEEPSEEK_SEPARATOR,)))),
)

HARMONY = ResponseFormat(
    "harmony",
    (
        _harmony(TextKind.TOOL_CALLS, r"<\|channel\|>\w+" + HARMONY_NAME + HARMONY_TYPE, HeadedJsonCall()),
        _harmony(TextKind.TOOL_CALLS, HARMONY_NAME + r"<\|channel\|>\w+" + HARMONY_TYPE, HeadedJsonCall()),
        _harmony(TextKind.REASONING, r"<\|channel\|>analysis[^<]*<\|message\|>"),
        _harmony(TextKind.CONTENT, r"(?:<\|channel\|>[^<]*(?:<\|constrain\|>[^<]*)?)?<\|message\|>"),
    ),
    ASSISTANT,
    ignored=(HARMONY_END, Marker(("<|start|>assistant", "<|start|>"))),
)

FORMATS = {
    known.name: known
    for known in (
        *(PLAIN, THINKING, HERMES, QWEN3_CODER, LLAMA3_JSON, LLAMA_PYTHONIC),
        *(MISTRAL, DEEPSEEK_V3, DEEPSEEK_V3_1, HARMONY),
    )
}
