"""/v1/responses as OpenAI's client, whose stream helper checks the order of the events."""

import json

import openai
import pytest

from jinfer.requests.request import FinishReason
from tests.server.http.conftest import MODEL
from tests.server.http.test_chat_tools import CALLS, CITY, THOUGHT

TOOLS = [{"type": "function", "name": "weather", "parameters": CITY, "strict": False}]
ASK = {"model": MODEL, "input": "Is it warm?"}


def items(response) -> list[tuple]:
    """The items without ids."""
    return [
        (item.name, item.arguments)
        if item.type == "function_call"
        else (item.type, "".join(part.text for part in item.content))
        for item in response.output
    ]


def streamed(client, **fields):
    with client.responses.stream(**ASK, **fields) as stream:
        events = list(stream)
        return events, stream.get_final_response()


def test_an_answer_has_its_reasoning_its_text_and_its_calls_as_items(played, player):
    player.play(CALLS)
    response = played.responses.create(**ASK, tools=TOOLS, instructions="Be brief.")
    assert items(response) == [
        ("reasoning", "Two cities."),
        ("message", "I look."),
        ("weather", '{"city": "Oslo"}'),
        ("weather", '{"city": "Zürich"}'),
    ]
    assert response.status == "completed"
    assert response.output_text == "I look."
    assert len({item.id for item in response.output}) == 4
    assert response.usage.input_tokens == len(player.requests[-1].prompt_token_ids)
    assert response.usage.output_tokens_details.reasoning_tokens == len("\nTwo cities.\n")
    assert response.usage.total_tokens == len(player.requests[-1].sequences[0].token_ids)
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs it warm?" in player.prompt


@pytest.mark.parametrize("answer", [CALLS, THOUGHT, "", "Yes.<|im_end|>"])
def test_a_stream_ends_with_what_the_unstreamed_answer_is(played, player, answer):
    player.play(answer or "<|im_end|>")
    whole = played.responses.create(**ASK, tools=TOOLS)
    events, final = streamed(played, tools=TOOLS)
    assert items(final) == items(whole)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.id}


@pytest.mark.parametrize(
    ("fields", "is_forced"),
    [
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "name": "weather"}}, True),
        ({"tools": [{**TOOLS[0], "strict": True}]}, True),
        ({"tool_choice": "auto"}, False),
    ],
)
def test_a_forced_call_and_a_strict_tool_need_a_grammar(played, player, fields, is_forced):
    player.play(CALLS)
    response = played.responses.create(**{**ASK, "tools": TOOLS, **fields})
    structure = player.requests[-1].params.structured_outputs
    assert (structure is not None) == is_forced
    assert response.to_dict()["tool_choice"] == fields.get("tool_choice", "auto")


def test_the_events_of_a_stream_are_in_their_strict_order(played, player):
    player.play('<think>Hm</think>A<tool_call>{"name": "weather", "arguments": {}}</tool_call><|im_end|>')
    kinds = [event.type.removeprefix("response.") for event in streamed(played, tools=TOOLS)[0]]
    assert list(dict.fromkeys(kinds)) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done", "output_text.delta"),
        *("output_text.done", "function_call_arguments.delta", "function_call_arguments.done", "completed"),
    ]
    assert kinds.count("output_item.added") == kinds.count("output_item.done") == 3


def test_an_answer_that_is_cut_is_incomplete_and_one_that_fails_failed(played, player):
    player.play("Ye", end=FinishReason.LENGTH)
    response = played.responses.create(**ASK, max_output_tokens=2)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    player.play("Ye", end=None)
    player.failure = "the device is gone"
    *_, last = played.responses.create(**ASK, stream=True)
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert "the device is gone" in last.response.error.message


def test_what_codex_sends_is_taken_and_other_tools_are_skipped(played, player):
    player.play("Yes.<|im_end|>")
    said = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "No jokes."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Is it warm?"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "c", "output": "18"},
    ]
    played.responses.create(
        model=MODEL,
        input=said,
        instructions="Be brief.",
        store=False,
        include=[],
        parallel_tool_calls=False,
        prompt_cache_key="k",
        reasoning={"effort": "low"},
        tools=[*TOOLS, {"type": "web_search"}, {"type": "custom", "name": "patch"}, {"type": "namespace"}],
        tool_choice="auto",
        extra_body={"client_metadata": {"a": "b"}},
    )
    rendered = player.prompt
    tools = rendered.removeprefix("<|im_start|>tools\n").partition("<|im_end|>")[0]
    assert [tool["function"]["name"] for tool in json.loads(tools)] == ["weather"]
    assert "<|im_start|>system\nBe brief.\n\nNo jokes.<|im_end|>\n<|im_start|>user" in rendered
    assert '<|im_start|>assistant\n<think>Hm.</think><tool_call>weather {"city": "Oslo"}' in rendered
    assert rendered.endswith("<|im_start|>tool\n18<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("conversation", "conv_1"),
        ("truncation", "auto"),
        ("text", {"format": {"type": "json_schema"}}),
        ("text", {"format": "json"}),
        ("tool_choice", "required"),
        ("input", [{"type": "item_reference", "id": "msg_1"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
        ("input", [{"type": "function_call", "name": "f", "arguments": "{}"}]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(played, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        played.responses.create(**{**ASK, field: value})
    assert caught.value.param == field
