"""Calls as the families write them, and nothing else."""

import json
import random

import jsonschema
import pytest

from jinfer.errors import RequestError
from jinfer.text.grammar.reasoning import after_reasoning
from jinfer.text.grammar.tool_call_format import (
    DEEPSEEK_V3,
    DEEPSEEK_V3_1,
    HERMES,
    LLAMA3_JSON,
    LLAMA_PYTHONIC,
    MISTRAL,
    MISTRAL_LIST,
    QWEN3_CODER,
    tool_call_format,
)
from jinfer.text.grammar.tool_calls import ToolChoice, tool_call_grammar
from jinfer.text.output_parsing.formats import FORMATS as FORMATS_THAT_ARE_READ
from tests.text.grammar.walking import random_walk
from tests.text.output_parsing.running import parse

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def function(name, strict=False, **parameters):
    return {"type": "function", "function": {"name": name, "strict": strict, **parameters}}


TOOLS = [function("weather", parameters=CITY), function("now")]
STRICT_TOOLS = [
    function("weather", strict=True, parameters=CITY),
    function("now", parameters={"type": "object"}),
]
REQUIRED = ToolChoice(is_required=True)
CALLS = {  # one call, and two
    HERMES: (
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
        '\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        "",
    ),
    LLAMA3_JSON: (
        '{"name": "weather", "parameters": {"city": "Rome"}}',
        '; {"name": "now", "parameters": {}}',
        "",
    ),
    MISTRAL: ('[TOOL_CALLS]weather[ARGS]{"city": "Rome"}', "[TOOL_CALLS]now[ARGS]{}", ""),
    MISTRAL_LIST: (
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}}',
        ', {"name": "now", "arguments": {}}',
        "]",
    ),
    LLAMA_PYTHONIC: ('[weather(city="Rome")', ", now()", "]"),
    QWEN3_CODER: (
        "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        "\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "",
    ),
    DEEPSEEK_V3_1: (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"  # noqa: RUF001
        '{"city": "Rome"}<｜tool▁call▁end｜>',  # noqa: RUF001
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>",  # noqa: RUF001
        "<｜tool▁calls▁end｜>",  # noqa: RUF001
    ),
}
FORMATS = pytest.mark.parametrize("call_format", CALLS, ids=lambda one: f"{one.name}-{len(one.first)}")


def grammar(model, call_format, tools=TOOLS, choice=REQUIRED):
    found = tool_call_grammar(call_format, tools, choice, model.tokenizer.added_tokens)
    assert found is not None
    return model.masker(found)


@FORMATS
def test_required_calls_are_written_natively(demo, call_format):
    """The demo model's tokenizer has none of the markers as tokens: they are text."""
    one, two, last = CALLS[call_format]
    masker = grammar(demo, call_format)
    assert demo.accepts(masker.copy(), one, last)
    assert demo.accepts(masker, one, two, last)
    assert demo.allows_end(masker)
    assert not demo.accepts(grammar(demo, call_format), "Once upon")


@FORMATS
def test_a_named_tool_is_called_once(demo, call_format):
    one, _, last = CALLS[call_format]
    masker = grammar(demo, call_format, choice=ToolChoice(name="weather"))
    assert demo.accepts(masker, one, last)
    assert masker.is_finished
    other = grammar(demo, call_format, choice=ToolChoice(name="now"))
    assert not demo.accepts(other, one)


@FORMATS
def test_without_parallel_calls_there_is_one(demo, call_format):
    one, two, last = CALLS[call_format]
    masker = grammar(demo, call_format, choice=ToolChoice(is_required=True, is_parallel=False))
    assert not demo.accepts(masker.copy(), one, two)
    assert demo.accepts(masker, one, last)
    assert masker.is_finished


@FORMATS
def test_text_may_stand_for_calls_where_none_is_required(demo, call_format):
    one, two, last = CALLS[call_format]
    masker = grammar(demo, call_format, STRICT_TOOLS, ToolChoice())
    assert demo.allows_end(masker)
    assert demo.accepts(masker.copy(), one, two, last)
    before = "Once upon a time" if call_format.may_follow_text else ""
    assert demo.accepts(masker.copy(), before, one)
    text = masker.copy()
    assert demo.accepts(text, "Once upon a time.")
    assert demo.allows_end(text)
    assert not demo.accepts(masker.copy(), one.replace("city", "town"))


def test_strict_tools_are_strict_and_others_any_object(demo):
    def accepts(text):
        return demo.accepts(grammar(demo, HERMES, STRICT_TOOLS, ToolChoice()), text)

    assert accepts('<tool_call>\n{"name": "now", "arguments": {"any": [1]}}\n</tool_call>')
    assert not accepts('<tool_call>\n{"name": "now", "arguments": []')
    assert not accepts('<tool_call>\n{"name": "weather", "arguments": {}')
    assert not accepts('<tool_call>\n{"name": "never"')


@pytest.mark.parametrize("seed", range(5))
@FORMATS
def test_what_is_forced_is_what_the_parser_reads(demo, call_format, seed):
    closing = [ids[0] for text in ('"', "'", "}", '"}') if len(ids := demo.ids(text)) == 1]
    ids = random_walk(
        grammar(demo, call_format),
        random.Random(seed),
        vocab_size=demo.vocab_size,
        eos_token_ids=demo.eos_token_ids,
        closing_ids=closing,
        ending_ids=demo.ids("\n</parameter>\n"),
    )
    parsed = parse(FORMATS_THAT_ARE_READ[call_format.name], demo.tokenizer.decode(ids), tools=TOOLS)
    assert parsed.tool_calls
    assert not parsed.content
    for call in parsed.tool_calls:
        schema = {"weather": CITY, "now": {"type": "object", "maxProperties": 0}}[call.name]
        jsonschema.validate(json.loads(call.arguments), schema)


def test_no_grammar_where_nothing_is_asked_for(demo):
    assert tool_call_grammar(HERMES, TOOLS, ToolChoice(), {}) is None


def test_markers_that_are_tokens_are_those_tokens(qwen3_model):
    masker = grammar(qwen3_model, HERMES)
    assert qwen3_model.allows(masker) == set(qwen3_model.ids("<tool_call>"))
    call = '\n{"name": "weather", "arguments": {"city": "Rome"}}\n'
    assert qwen3_model.accepts(masker, "<tool_call>", call, "</tool_call>")
    assert qwen3_model.allows_end(masker)
    auto = grammar(qwen3_model, HERMES, STRICT_TOOLS, ToolChoice())
    assert qwen3_model.accepts(auto, "Let me see.\n", "<tool_call>", call, "</tool_call>")


def test_calls_after_reasoning(qwen3_model):
    added = qwen3_model.tokenizer.added_tokens
    calls = tool_call_grammar(HERMES, TOOLS, REQUIRED, added)
    masker = qwen3_model.masker(after_reasoning(calls, added, is_open=False))
    call = '\n{"name": "now", "arguments": {}}\n'
    assert qwen3_model.accepts(
        masker, "<think>", "\nHm.\n", "</think>", "\n\n", "<tool_call>", call, "</tool_call>"
    )


MALFORMED = [
    ([3], REQUIRED, r"tools\[0\]=3"),
    ([{"type": "function", "function": {}}], REQUIRED, "name"),
    ([function('f"')], REQUIRED, "letters"),
    ([function("f", parameters=3)], REQUIRED, "JSON schema"),
    (TOOLS, ToolChoice(name="never"), "weather, now"),
    ([function("f", parameters={"x-guidance": {"lenient": True}})], REQUIRED, "the tool 'f'"),
    ([], REQUIRED, "not given"),
]


@pytest.mark.parametrize(("tools", "choice", "word"), MALFORMED)
def test_what_is_malformed_is_refused(tools, choice, word):
    with pytest.raises(RequestError, match=word):
        tool_call_grammar(HERMES, tools, choice, {})


def test_formats_by_name():
    assert tool_call_format("hermes", {}) is HERMES
    assert tool_call_format("deepseek_v3", {}) is DEEPSEEK_V3
    assert tool_call_format("mistral", {"[TOOL_CALLS]", "[ARGS]"}) is MISTRAL
    assert tool_call_format("mistral", {"[TOOL_CALLS]"}) is MISTRAL_LIST
    assert tool_call_format("qwen3_coder", {}) is QWEN3_CODER
    assert tool_call_format("harmony", {}) is None
