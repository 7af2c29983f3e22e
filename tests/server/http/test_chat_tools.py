"""Tool calls and reasoning in /v1/chat/completions, with OpenAI's client."""

import json

import openai
import pytest

from jinfer.errors import ConfigError
from jinfer.requests.request import FinishReason
from jinfer.server.options import ServerOptions
from tests.server.http.conftest import MODEL
from tests.server.http.running_server import running_server

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
MESSAGES = [{"role": "user", "content": "Is it warm?"}]
CALLS = (
    "<think>\nTwo cities.\n</think>\n\nI look."
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>'
)
THOUGHT = "<think>It is June.</think>Yes.<|im_end|>"


def create(client, **fields):
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **fields)


def streamed_message(client, **fields):
    """The message and the finish_reason as the client joins them, its ids left as they came."""
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, **fields) as stream:
        choice = stream.get_final_completion().choices[0]
    return choice.message, choice.finish_reason


def plain(message) -> dict:
    """The message without ids, which are new for every answer, and without what only a client adds."""
    body = message.to_dict()
    calls = body.pop("tool_calls", None) or []
    body["calls"] = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return {name: body.get(name) for name in ("role", "content", "reasoning", "calls")}


@pytest.mark.parametrize("answer", [CALLS, THOUGHT, "Yes.<|im_end|>", '<tool_call>{"name": "weather"'])
@pytest.mark.parametrize("tools", [{"tools": TOOLS}, {}])
def test_the_chunks_of_a_stream_add_up_to_the_unstreamed_answer(played, player, answer, tools):
    player.play(answer)
    whole = create(played, **tools).choices[0]
    message, finish_reason = streamed_message(played, **tools)
    assert plain(message) == plain(whole.message)
    assert finish_reason == whole.finish_reason


def test_calls_have_names_arguments_and_ids_of_their_own(played, player):
    player.play(CALLS)
    choice = create(played, tools=TOOLS).choices[0]
    calls = choice.message.tool_calls
    assert [(call.type, call.function.name) for call in calls] == [("function", "weather")] * 2
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Oslo"}, {"city": "Zürich"}]
    assert len({call.id for call in calls}) == 2
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    assert choice.message.reasoning == "Two cities."
    assert '"name": "weather"' in player.prompt


def test_a_name_and_an_id_are_streamed_once_for_each_call(played, player):
    player.play(CALLS)
    deltas = [
        call
        for chunk in create(played, tools=TOOLS, stream=True)
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    begun = [(call.index, call.function.name) for call in deltas if call.id is not None]
    assert begun == [(0, "weather"), (1, "weather")]
    assert all(call.function.name is None for call in deltas if call.id is None)


def test_without_tools_a_call_is_content(played, player):
    player.play(CALLS)
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = create(played, **fields).choices[0]
        assert choice.message.tool_calls is None
        assert '"arguments": {"city": "Oslo"}' in choice.message.content
        assert choice.finish_reason == "stop"
        assert "weather" not in player.prompt


def test_one_call_at_most_where_parallel_ones_are_not_allowed(played, player):
    player.play(CALLS)
    message = create(played, tools=TOOLS, parallel_tool_calls=False).choices[0].message
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"city": "Oslo"}]


def test_an_answer_cut_within_its_reasoning_has_no_content(played, player):
    player.play("<think>It is", end=FinishReason.LENGTH)
    choice = create(played).choices[0]
    assert (choice.message.reasoning, choice.message.content) == ("It is", "")
    assert choice.finish_reason == "length"


INSIDE = {
    CALLS: len("\nTwo cities.\n"),
    THOUGHT: len("It is June."),
    "Yes.<|im_end|>": 0,
    "<think>Hm<|im_end|>": 2,
}
"""The tokens of answers, each a character, that are reasoning."""


@pytest.mark.parametrize("answer", INSIDE)
def test_the_tokens_of_reasoning_are_counted(played, player, answer):
    player.play(answer)
    whole = create(played).usage
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    *_, last = create(played, **options)
    assert last.usage.completion_tokens_details.reasoning_tokens == INSIDE[answer]
    assert whole.completion_tokens_details.reasoning_tokens == INSIDE[answer]


@pytest.mark.parametrize(
    ("field", "names"),
    [("reasoning_content", {"reasoning_content"}), ("both", {"reasoning", "reasoning_content"})],
)
def test_reasoning_may_have_another_name(player, field, names):
    options = ServerOptions(served_model_name=(MODEL,), grace_s=0, reasoning_field=field)
    player.play(THOUGHT)
    with (
        running_server(player, options) as running,
        openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        message = create(client).choices[0].message.to_dict()
        assert {name for name, text in message.items() if text == "It is June."} == names
        assert plain(streamed_message(client)[0]) == plain(create(client).choices[0].message)
        messages = [*MESSAGES, {"role": "assistant", **message}]
        client.chat.completions.create(model=MODEL, messages=messages)
        assert "<think>It is June.</think>Yes." in player.prompt


def test_a_conversation_goes_on_after_calls_good_and_bad(played, player):
    player.play("Yes.<|im_end|>")
    calls = [
        {"id": "a", "type": "function", "function": {"name": "weather", "arguments": text}}
        for text in ('{"city": "Oslo"}', '{"city": ')
    ]
    said = {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": calls}
    result = {"role": "tool", "tool_call_id": "a", "content": "18"}
    begin = [{"role": "developer", "content": "Be brief."}, *MESSAGES]
    played.chat.completions.create(model=MODEL, messages=[*begin, said, result], tools=TOOLS)
    assert '<think>Hm.</think><tool_call>weather {"city": "Oslo"}</tool_call>' in player.prompt
    assert r'<tool_call>weather "{\"city\": "</tool_call>' in player.prompt
    assert "<|im_start|>system\nBe brief." in player.prompt
    assert player.prompt.endswith("<|im_start|>tool\n18<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "custom", "custom": {"name": "f"}},
        {"type": "function", "function": {"parameters": CITY}},
        {"type": "function", "function": {"name": "f()", "parameters": CITY, "strict": True}},
    ],
)
def test_a_tool_that_cannot_be_honoured_is_refused(played, tool):
    with pytest.raises(openai.BadRequestError, match=r"tools\[0\]") as caught:
        create(played, tools=[tool])
    assert caught.value.param == "tools"


FORCED = [
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    {"tools": [{"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}]},
    {"tools": TOOLS, "response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_object"}},
]


@pytest.mark.parametrize("fields", FORCED)
def test_what_is_forced_is_a_grammar_of_the_whole_answer(played, player, fields):
    """Which grammar is text.grammar's matter: see test_answer_grammar."""
    player.play(CALLS)
    choice = create(played, **fields).choices[0]
    structure = player.requests[-1].params.structured_outputs
    assert "reasoning: TEXT" in structure.grammar
    assert ("weather" in structure.grammar) == ("tools" in fields)
    assert (choice.message.tool_calls is not None) == ("tools" in fields)


@pytest.mark.parametrize(
    ("parser", "written"), [("llama_pythonic", "city="), ("qwen3_coder", "<parameter=city>")]
)
def test_calls_whose_arguments_are_named_are_forced_where_all_have_names(player, parser, written):
    options = ServerOptions(served_model_name=(MODEL,), grace_s=0, tool_call_parser=parser)
    unnamed = {"type": "object", "additionalProperties": {"type": "string"}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": unnamed}}]
    player.play("Yes.<|im_end|>")
    with (
        running_server(player, options) as running,
        openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        create(client, tools=TOOLS, tool_choice="required")
        asked = player.requests[-1].params.structured_outputs.grammar
        with pytest.raises(openai.BadRequestError, match="name them in properties") as caught:
            create(client, tools=tools, tool_choice="required")
    assert written in asked
    assert caught.value.param == "tools"


@pytest.mark.parametrize("fields", [{}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}])
def test_what_is_not_forced_needs_no_grammar(played, player, fields):
    player.play(CALLS)
    create(played, **fields)
    assert player.requests[-1].params.structured_outputs is None


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "other"}},
        {"type": "function"},
        {"type": "custom", "custom": {"name": "weather"}},
        "always",
        5,
        ["auto"],
    ],
)
def test_a_choice_of_no_tool_is_refused(played, choice):
    with pytest.raises(openai.BadRequestError, match="'required'") as caught:
        create(played, tools=TOOLS, tool_choice=choice)
    assert caught.value.param == "tool_choice"


def test_what_the_engine_refuses_is_the_callers_error(played, player):
    player.refuse("the grammar cannot be kept: why")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="the grammar cannot be kept: why"):
            create(played, stream=stream)


def test_a_parser_that_does_not_exist_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"tool_call_parser='hermess' is no format; choose one of"):
        ServerOptions(tool_call_parser="hermess")
