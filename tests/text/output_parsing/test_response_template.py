"""Response templates of transformers: what is read, what is refused, and that the answers are the same."""

import copy
import json
from typing import Any

import pytest

from jinfer.text.output_parsing.deltas import join
from jinfer.text.output_parsing.response_format import HeadedJsonCall, JsonCalls, TemplateCalls
from jinfer.text.output_parsing.response_template import read_response_template
from tests.text.output_parsing.running import WEATHER, calls, deltas_of, parse, parser

CALL = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}

CHATML: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*(?:<\|im_end\|>|<\|endoftext\|>)"},
    },
}


def with_calls(**field: Any) -> dict[str, Any]:
    template = copy.deepcopy(CHATML)
    template["fields"]["tool_calls"] = field
    return template


XML = with_calls(
    open_pattern=r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
    close_pattern=r"</function>\s*</tool_call>",
    repeats=True,
    content="xml-inline",
    content_args={"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
    transform=CALL,
)
MERGED = with_calls(
    open_pattern=r"<f (?P<name>\w+)>",
    close="</f>",
    content="xml-inline",
    repeats=True,
    content_args={
        "tag_pattern": "<(?P<key>[a-z]+)>(?P<value>.*?);",
        "merge_duplicates": True,
        "value_parser": {"name": "json", "args": {"allow_non_json": True}},
    },
    transform=CALL,
)
ODD_JSON = with_calls(
    open_pattern=r"<\|tool_call>call:(?P<name>\w+)",
    close="<tool_call|>",
    repeats=True,
    content="json",
    content_args={"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
    transform=CALL,
)
EACH = with_calls(
    open="<|START|>",
    close="<|END|>",
    content="json",
    transform_each=True,
    transform={"type": "function", "function": {"name": "{tool_name}", "arguments": "{parameters}"}},
)
LINES = with_calls(
    open_pattern=r"<(?P<name>\w+):>", close="</>", repeats=True, content="kv-lines", transform=CALL
)
PYTHON = with_calls(
    open="<py>",
    close="</py>",
    content="python-call-list",
    transform_each=True,
    transform={"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
)
GPT_OSS: dict[str, Any] = {
    "start_anchor_pattern": r"<\|start\|>assistant",
    "fields": {
        "thinking": {
            "open_pattern": r"<\|channel\|>analysis<\|message\|>",
            "close": "<|end|>",
            "repeats": True,
            "join": "\n\n",
        },
        "content": {"open": "<|channel|>final<|message|>", "close": ["<|end|>", "<|return|>"]},
        "tool_calls": {
            "open_pattern": r"<\|channel\|>commentary to=functions\.(?P<name>\w+).*?<\|message\|>",
            "close": "<|call|>",
            "repeats": True,
            "content": "json",
            "transform": CALL,
        },
    },
}

ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "text": (CHATML, "<think>\nSo.\n</think>\n\nHi \nyou.<|im_end|>\n<|endoftext|>"),
    "no end of a thought": (CHATML, "<think>\nSo."),
    "json": (
        CHATML,
        'Hi.\n<tool_call>\n{"name": "weather", "arguments": {"city": "a \\" b", "days": 2}}\n</tool_call>\n'
        '<tool_call>{"name": "now", "arguments": {}}</tool_call><|im_end|>',
    ),
    "xml": (
        XML,
        "Hi.\n<tool_call>\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n</function>\n</tool_call><|im_end|>",
    ),
    "merged": (MERGED, "<f g><a>1;<a>x;<b>[2];</f>"),
    "odd json": (
        ODD_JSON,
        '<|tool_call>call:g{a:<|"|>x, y: "z"<|"|>,b:[1,{c_d:true}],"e":"{f:"}<tool_call|>',
    ),
    "each": (
        EACH,
        '<|START|>[{"tool_name": "f", "parameters": {"a": 1}}, {"tool_name": "g", "parameters": {}}]<|END|>',
    ),
    "lines": (LINES, "<f:>\n a : b: c\n\nnone\nd:1</>"),
    "python": (PYTHON, "<py>[f(a='x\\n\\'', b=[1, -2.5, {'k': None}]), g()]</py>"),
    "harmony": (
        GPT_OSS,
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
        '{"a": 1}<|call|><|start|>assistant<|channel|>final<|message|>Dry.<|return|>',
    ),
}
every_answer = pytest.mark.parametrize(("template", "text"), ANSWERS.values(), ids=ANSWERS)


@every_answer
@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_answer_is_the_same_however_it_is_cut(template, text, size):
    response_format = read_response_template(template)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    whole = parse(response_format, text)
    assert join(deltas_of(response_format, pieces)) == whole
    assert whole.reasoning or whole.content or whole.tool_calls


@pytest.mark.oracle
@every_answer
def test_an_answer_is_read_as_transformers_reads_it(template, text):
    """But for white space at the ends, and text of a kind in several places, which is joined here."""
    chat_parsing = pytest.importorskip(
        "transformers.utils.chat_parsing", reason="transformers says what is right; install jinfer[oracle]"
    )
    expected = chat_parsing.parse_response(text, template, prefix="", tools=[WEATHER])
    output = parse(read_response_template(template), text)
    assert (output.reasoning or "").strip() == expected.get("thinking", "")
    assert (output.content or "").strip() == expected.get("content", "")
    functions = [call["function"] for call in expected.get("tool_calls", [])]
    found = [{"name": name, "arguments": json.loads(arguments)} for name, arguments in calls(output)]
    assert found == functions


@pytest.mark.parametrize(
    ("template", "kind"),
    [(CHATML, JsonCalls), (GPT_OSS, HeadedJsonCall), (XML, TemplateCalls), (ODD_JSON, TemplateCalls)],
)
def test_json_that_a_client_may_have_as_it_is_needs_not_wait(template, kind):
    regions = read_response_template(template).regions
    assert [type(region.calls) for region in regions if region.calls is not None] == [kind]


def test_calls_that_do_not_parse_are_content():
    text = "Hi <f g><a>1</f> so"
    broken = with_calls(
        open="<f>", close="</f>", content="json", transform={"function": {"name": "{content.n}"}}
    )
    assert parse(read_response_template(broken), "Hi <f>{}</f> so").content == "Hi <f>{}</f> so"
    assert parse(read_response_template(broken), "Hi <f>[</f> so").content == "Hi <f>[</f> so"
    assert calls(parse(read_response_template(MERGED), text)) == [("g", "{}")]


@pytest.mark.parametrize("text", [" " * 10_000 + "x", "<a>" * 3_000, "<a>" + " x" * 5_000])
def test_a_marker_that_never_ends_is_text(text):
    """And is not waited for without end."""
    template = with_calls(open_pattern=r"\s*<a>.*?<b>", content="json", transform={"function": "{content}"})
    response_format = read_response_template(template)
    running = parser(response_format)
    early = running.feed([text])
    assert join([*early, *running.finish()]).content == text
    assert early
    assert join(deltas_of(response_format, text)).content == text


def changed(**parts: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CHATML), **parts}


def field(name: str, **parts: Any) -> dict[str, Any]:
    return changed(fields={**CHATML["fields"], name: parts})


REFUSED = {
    "no object": ([], "must be an object"),
    "a version": (changed(version=2), "version 2"),
    "an unknown key": (changed(start="x"), "unknown keys start"),
    "no fields": (changed(fields={}), "no fields"),
    "no anchor": ({"fields": CHATML["fields"]}, "no start_anchor"),
    "an unknown field": (field("citations", open="x"), "'citations' is none of"),
    "an unknown part": (field("thinking", open="x", start="y"), "'thinking' has the unknown keys start"),
    "an opening twice": (field("thinking", open="x", open_pattern="y"), "both open and open_pattern"),
    "an empty opening": (field("thinking", open=""), "has the open ''"),
    "no opening": (field("thinking", close="x"), "only content may have none"),
    "a pattern": (field("thinking", open_pattern="x(?=y)"), "lookaround"),
    "no pattern": (field("thinking", open_pattern="x("), "no regular expression"),
    "an empty pattern": (field("thinking", open_pattern="x*"), "empty text"),
    "a number": (field("thinking", open="x", content="int"), "it is plain text"),
    "a join": (field("thinking", open="x", join=1), "join 1"),
    "a content": (field("tool_calls", open="x", content="yaml"), "'yaml'"),
    "no tag": (field("tool_calls", open="x", content="xml-inline"), "tag_pattern None"),
    "an inner parser": (
        field("tool_calls", open="x", content="kv-lines", content_args={"value_parser": {"name": "?"}}),
        "'?'",
    ),
}


@pytest.mark.parametrize(("template", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_template_that_cannot_be_used_is_refused_with_the_reason(template, reason):
    with pytest.raises(ValueError, match=reason.replace("?", r"\?")):
        read_response_template(template)
