"""What models write, in every format: whole, cut anywhere, cut off and broken."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.text.output_parsing import formats
from jinfer.text.output_parsing.deltas import ContentDelta, ToolCallStart, join
from tests.text.output_parsing.answers import ANSWERS, Written
from tests.text.output_parsing.running import arguments_so_far, calls, cut, deltas_of, parse, parser

every_answer = pytest.mark.parametrize("written", ANSWERS.values(), ids=ANSWERS)
every_format = pytest.mark.parametrize("response_format", formats.FORMATS.values(), ids=formats.FORMATS)

MARKUP = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "<parameter=a>", "</parameter>"),
    *("</function>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "<|channel|>", "analysis", "<|message|>"),
    *("<|start|>", "assistant", "<|end|>", "<|call|>", " to=functions.f", formats.DEEPSEEK_CALL),
    *(
        formats.DEEPSEEK_SEPARATOR,
        '{"name": "f", "arguments": {"a": ',
        '{"name": "f", "parameters": {}}',
        "f(",
    ),
    *('"', "{", "}", "[", "]", ", ", "\n", " ", "x", "\\", "a=1", ")", ": ", "1"),
]
babble = st.lists(st.sampled_from(MARKUP) | st.text(max_size=3), max_size=20).map("".join)


@every_answer
def test_an_answer_is_split(written: Written):
    output = parse(written.response_format, written.text)
    assert (output.reasoning, output.content, calls(output)) == written[2:]


@every_answer
def test_an_answer_that_comes_character_by_character_is_the_same(written: Written):
    deltas = deltas_of(written.response_format, written.text)
    assert join(deltas) == parse(written.response_format, written.text)


@every_answer
def test_what_is_given_out_is_the_beginning_of_the_whole(written: Written):
    """Wherever the answer stops: what was given out before its end, and arguments after its end too."""
    whole = parse(written.response_format, written.text)
    running = parser(written.response_format)
    deltas = []
    for length, character in enumerate(written.text):
        deltas += running.feed([character])
        part = join(deltas)
        assert (whole.reasoning or "").startswith(part.reasoning or "")
        assert (whole.content or "").startswith(part.content or "")
        for index, call in enumerate(parse(written.response_format, written.text[:length]).tool_calls):
            assert whole.tool_calls[index].name == call.name
            assert whole.tool_calls[index].arguments.startswith(call.arguments)


@every_answer
def test_a_name_comes_once_and_before_its_arguments(written: Written):
    deltas = deltas_of(written.response_format, written.text)
    starts = [delta for delta in deltas if isinstance(delta, ToolCallStart)]
    assert [start.name for start in starts] == [name for name, _ in written.calls]
    assert [start.index for start in starts] == list(range(len(starts)))


@every_answer
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_it_does_not_matter_how_an_answer_is_cut(written: Written, data: st.DataObject):
    pieces = data.draw(cut(written.text))
    deltas = deltas_of(written.response_format, pieces)
    assert join(deltas) == parse(written.response_format, written.text)
    final = dict(enumerate(arguments for _, arguments in written.calls))
    assert all(final[index].startswith(text) for index, text in arguments_so_far(deltas))


@every_format
@given(data=st.data(), text=babble)
@settings(max_examples=80, deadline=None)
def test_whatever_a_model_says_is_split_the_same_way_however_it_is_cut(response_format, data, text):
    whole = parse(response_format, text)
    assert join(deltas_of(response_format, text)) == whole
    assert join(deltas_of(response_format, data.draw(cut(text)))) == whole


@pytest.mark.parametrize("name", sorted(formats.FORMATS.keys() - {"harmony"}))  # whose headers are markup
@given(text=babble)
@settings(max_examples=60, deadline=None)
def test_words_are_never_lost(name, text):
    """Without calls, every word comes out once: what is left out is white space and markers."""
    words = text.replace("x", "\u00e9")
    output = parse(formats.FORMATS[name], words)
    if not output.tool_calls:
        told = (output.reasoning or "") + (output.content or "")
        assert told.count("\u00e9") == words.count("\u00e9")


@every_format
def test_text_without_markers_is_content_as_it_is(response_format):
    text = "  Hi,\n\n there. \n"
    assert parse(response_format, text).content == text


@every_format
def test_plain_text_comes_at_once(response_format):
    assert deltas_of(response_format, ["Hello", " you"])[:2] == [ContentDelta("Hello"), ContentDelta(" you")]


def test_the_arguments_come_as_they_are_written():
    pieces = ['<tool_call>{"name": "f", "arguments": ', '{"a": "x', "y", '"}}']
    deltas = deltas_of(formats.HERMES, pieces)
    assert [text for _, text in arguments_so_far(deltas)] == ['{"a": "x', '{"a": "xy', '{"a": "xy"}']


BROKEN = {
    "no JSON": (formats.HERMES, "Hm <tool_call>\noops\n</tool_call> so"),
    "a list of nothing": (formats.HERMES, "<tool_call>[]</tool_call>"),
    "no name": (formats.HERMES, '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    "a name that is none": (formats.HERMES, '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    "a name with a lone surrogate": (formats.HERMES, '<tool_call>{"name": "\\ud800"}</tool_call>'),
    "cut off before the arguments": (formats.HERMES, '<tool_call>{"name": "f"'),
    "text for a function": (formats.QWEN3_CODER, "<tool_call>\nf(1)\n</tool_call>"),
    "a function without a name": (formats.QWEN3_CODER, "<tool_call><function=></function></tool_call>"),
    "no end of a string": (formats.LLAMA_PYTHONIC, '[f(a="x)]'),
    "no literal": (formats.LLAMA_PYTHONIC, "[f(a=g(1))]"),
    "a deep literal": (formats.LLAMA_PYTHONIC, f"[f(a={'[' * 100}{']' * 100})]"),
    "prose": (formats.MISTRAL, "[TOOL_CALLS]I will call f"),
    "no function": (formats.DEEPSEEK_V3, formats.DEEPSEEK_CALL + 'f {"a": 1}'),
}


@pytest.mark.parametrize(("response_format", "text"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_call_is_content_to_the_letter(response_format, text):
    output = parse(response_format, text)
    assert (output.reasoning, output.content, output.tool_calls) == (None, text, ())


def test_what_comes_after_a_call_that_broke_is_content():
    text = '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"nom": 1}] so'
    output = parse(formats.MISTRAL, text)
    assert calls(output) == [("f", "{}")]
    assert output.content == ', {"nom": 1}] so'


def test_a_message_without_a_known_channel_is_content():
    output = parse(formats.HARMONY, "<|channel|>remark<|message|>Hi<|end|><|start|>assistant<|message|>you")
    assert output.content == "Hi\nyou"


@pytest.mark.parametrize(
    ("response_format", "call"),
    [(formats.LLAMA3_JSON, '{"name": "f", "parameters": {}}'), (formats.LLAMA_PYTHONIC, "[f()]")],
)
def test_a_call_that_no_marker_opens_begins_the_answer(response_format, call):
    assert calls(parse(response_format, f"\n {call}")) == [("f", "{}")]
    assert parse(response_format, f"Such as {call}").content == f"Such as {call}"


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("{}", "{}"),
        ("null", "{}"),
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ('"x"', '"x"'),
        ("[1]", "[1]"),
        ("", "{}"),
    ],
)
def test_arguments_that_are_no_object(written, arguments):
    output = parse(formats.HERMES, f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>')
    assert calls(output) == [("f", arguments)]


def test_text_around_regions_keeps_lines_apart():
    call = '<tool_call>{"name": "f"}</tool_call>'
    assert parse(formats.HERMES, f"a\n{call}\nb").content == "a\nb"
    assert parse(formats.HERMES, "<think>a</think><think>b</think>").reasoning == "a\nb"


def test_without_tools_calls_are_content():
    text = '<think>a</think>b<tool_call>{"name": "f"}</tool_call>'
    output = parse(formats.HERMES, text, tools=None)
    assert (output.reasoning, output.tool_calls) == ("a", ())
    assert output.content == 'b<tool_call>{"name": "f"}</tool_call>'


def test_reasoning_may_stay_in_the_content():
    output = parse(formats.HERMES, "<think>a</think>b", reads_reasoning=False)
    assert (output.reasoning, output.content) == (None, "<think>a</think>b")


def test_an_unfinished_thought_is_reasoning():
    output = parse(formats.HERMES, "<think>\nI wonder </thi")
    assert (output.reasoning, output.content) == ("I wonder </thi", None)


def test_arguments_written_as_bare_text_get_the_types_of_the_schema():
    values = {
        "city": "12",
        "days": "3.0",
        "limit": "null",
        "exact": "True",
        "either": "7",
        "where": "{'a': [True, None]}",
        "tags": '["a", 1]',
        "level": "2",
        "other": "5",
    }
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    text = f"<tool_call>\n<function=weather>\n{parameters}</function>\n</tool_call>"
    [(_, arguments)] = calls(parse(formats.QWEN3_CODER, text))
    assert json.loads(arguments) == {
        "city": "12",
        "days": 3,
        "limit": None,
        "exact": True,
        "either": "7",
        "where": {"a": [True, None]},
        "tags": ["a", 1],
        "level": 2,
        "other": "5",
    }


@pytest.mark.parametrize("value", ["many", "1e999", "NaN", "[1", "9" * 5000, "[" * 5000, "2.5", "true"])
def test_a_value_that_is_not_of_its_type_stays_text(value):
    text = f"<function=weather><parameter=days>{value}</parameter></function>"
    [(_, arguments)] = calls(parse(formats.QWEN3_CODER, f"<tool_call>{text}</tool_call>"))
    assert json.loads(arguments) == {"days": value}


@pytest.mark.parametrize("value", ["[1e999]", "(1, 2", "[f()]"])
def test_a_list_that_is_no_json_stays_text(value):
    text = f"<function=weather><parameter=tags>{value}</parameter></function>"
    [(_, arguments)] = calls(parse(formats.QWEN3_CODER, f"<tool_call>{text}</tool_call>"))
    assert json.loads(arguments) == {"tags": value}


def test_a_schema_that_refers_to_itself_types_nothing():
    schema = {"anyOf": [{"$ref": "#/properties/a"} for _ in range(100)]}
    tool = {"name": "f", "parameters": {"properties": {"a": schema, "b": {"$ref": "#/properties/b"}}}}
    text = (
        "<tool_call><function=f><parameter=a>1</parameter><parameter=b>2</parameter></function></tool_call>"
    )
    assert calls(parse(formats.QWEN3_CODER, text, tools=[tool, "f", {"function": {"name": 1}}])) == [
        ("f", '{"a": "1", "b": "2"}')
    ]


def test_a_value_may_have_lines_and_tags():
    value = "\n<b>\n1</b> </para>\n"
    text = f"<tool_call><function=f><parameter=a>\n{value}\n</parameter></function></tool_call>"
    [(_, arguments)] = calls(parse(formats.QWEN3_CODER, text))
    assert json.loads(arguments) == {"a": value}
