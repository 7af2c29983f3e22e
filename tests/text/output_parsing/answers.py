"""What models of each format write, as their chat templates teach it."""

from typing import NamedTuple

from jinfer.text.output_parsing import formats
from jinfer.text.output_parsing.response_format import ResponseFormat


class Written(NamedTuple):
    response_format: ResponseFormat
    text: str
    reasoning: str | None
    content: str | None
    calls: list[tuple[str, str]]


def deepseek(text: str) -> str:
    """A text with DeepSeek's tokens: <|a_b|> with a full-width bar and U+2581."""
    return text.replace("|", "\uff5c").replace("_", "\u2581")


ONE = '{"city": "Bonn", "days": 2}'
V3 = deepseek(
    "<|tool_calls_begin|><|tool_call_begin|>function<|tool_sep|>weather\n```json\n{ONE}\n```<|tool_call_end|>\n"
    "<|tool_call_begin|>function<|tool_sep|>now\n```json\n{}\n```<|tool_call_end|><|tool_calls_end|>"
).replace("{ONE}", ONE)
V3_1 = deepseek(
    "<|tool_calls_begin|><|tool_call_begin|>weather<|tool_sep|>{ONE}<|tool_call_end|>"
    "<|tool_call_begin|>now<|tool_sep|>{}<|tool_call_end|><|tool_calls_end|>"
).replace("{ONE}", ONE)
BOTH = [("weather", ONE), ("now", "{}")]

ANSWERS = {
    "hermes": Written(
        formats.HERMES,
        f"<think>\nSo.\n</think>\n\nI look.\n"
        f'<tool_call>\n{{"name": "weather", "arguments": {ONE}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "So.",
        "I look.",
        BOTH,
    ),
    "hermes, arguments first": Written(
        formats.HERMES,
        f'<tool_call>{{"arguments": {ONE}, "name": "weather"}}</tool_call>',
        None,
        None,
        BOTH[:1],
    ),
    "hermes, without an end": Written(
        formats.HERMES, f'<tool_call>\n{{"name": "weather", "arguments": {ONE}}}', None, None, BOTH[:1]
    ),
    "hermes, the end forgotten between": Written(
        formats.HERMES,
        f'<tool_call>{{"name": "weather", "arguments": {ONE}}}\n<tool_call>{{"name": "now"}}</tool_call>',
        None,
        None,
        BOTH,
    ),
    "hermes, a marker in a string": Written(
        formats.HERMES,
        '<tool_call>{"name": "weather", "arguments": {"city": "\\"</tool_call>"}}</tool_call> Done.',
        None,
        "Done.",
        [("weather", '{"city": "\\"</tool_call>"}')],
    ),
    "qwen3_coder": Written(
        formats.QWEN3_CODER,
        "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        None,
        "I look.",
        BOTH,
    ),
    "llama3_json": Written(
        formats.LLAMA3_JSON,
        f'{{"name": "weather", "parameters": {ONE}}}; '
        '{"type": "function", "name": "now", "parameters": {}}',
        None,
        None,
        BOTH,
    ),
    "llama3_json, tagged": Written(
        formats.LLAMA3_JSON, f'<|python_tag|>{{"name": "weather", "parameters": {ONE}}}', None, None, BOTH[:1]
    ),
    "llama3_json, an answer in JSON": Written(
        formats.LLAMA3_JSON,
        '{"name": "Bonn", "size": {"name": 1}}',
        None,
        '{"name": "Bonn", "size": {"name": 1}}',
        [],
    ),
    "llama_pythonic": Written(
        formats.LLAMA_PYTHONIC, '[weather(city="Bonn", days=2), now()]', None, None, BOTH
    ),
    "llama_pythonic, a list": Written(formats.LLAMA_PYTHONIC, "[1, 2] it is", None, "[1, 2] it is", []),
    "mistral, old": Written(
        formats.MISTRAL,
        f'[TOOL_CALLS][{{"name": "weather", "arguments": {ONE}, "id": "a"}}, '
        '{"name": "now", "arguments": {}}]',
        None,
        None,
        BOTH,
    ),
    "mistral": Written(
        formats.MISTRAL,
        f"[THINK]So.[/THINK]I look.[TOOL_CALLS]weather[ARGS]{ONE}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{{}}",
        "So.",
        "I look.",
        BOTH,
    ),
    "deepseek_v3": Written(
        formats.DEEPSEEK_V3, "<think>\nSo.\n</think>\n\nI look." + V3, "So.", "I look.", BOTH
    ),
    "deepseek_v3_1": Written(formats.DEEPSEEK_V3_1, "I look." + V3_1, None, "I look.", BOTH),
    "harmony": Written(
        formats.HARMONY,
        "<|channel|>analysis<|message|>So.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
        f"{ONE}<|call|>"
        "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
        "So.",
        "I look.",
        BOTH,
    ),
    "harmony, an answer": Written(
        formats.HARMONY,
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Dry.<|return|>",
        "So.",
        "Dry.",
        [],
    ),
}
