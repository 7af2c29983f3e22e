"""/v1/messages and its count of tokens, as Anthropic's client."""

import anthropic
import pytest

from jinfer.errors import OverloadedError
from jinfer.requests.request import FinishReason
from tests.server.http.conftest import MODEL
from tests.server.http.test_chat_tools import CALLS, CITY, THOUGHT

TOOLS = [{"name": "weather", "description": "Tells it.", "input_schema": CITY}]
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Is it warm?"}], "max_tokens": 100}


@pytest.fixture
def client(played_url):
    with anthropic.Anthropic(base_url=played_url, api_key="none", max_retries=0) as client:
        yield client


def blocks(message) -> list[tuple]:
    """The blocks without ids."""
    parts = {"text": "text", "thinking": "thinking", "tool_use": "input"}
    return [(block.type, getattr(block, parts[block.type])) for block in message.content]


def test_an_answer_has_thinking_text_and_calls_as_blocks(client, player):
    player.play(CALLS)
    message = client.messages.create(**ASK, tools=TOOLS, system="Be brief.")
    assert blocks(message) == [
        ("thinking", "Two cities."),
        ("text", "I look."),
        ("tool_use", {"city": "Oslo"}),
        ("tool_use", {"city": "Zürich"}),
    ]
    assert (message.stop_reason, message.content[2].name) == ("tool_use", "weather")
    assert message.content[2].id != message.content[3].id
    assert message.usage.input_tokens == len(player.requests[-1].prompt_token_ids)
    num_tokens = len(player.requests[-1].sequences[0].token_ids)
    assert message.usage.input_tokens + message.usage.output_tokens == num_tokens
    assert '"description": "Tells it."' in player.prompt
    assert "<|im_start|>system\nBe brief.<|im_end|>" in player.prompt


@pytest.mark.parametrize("answer", [CALLS, THOUGHT, "<|im_end|>", "Yes.<|im_end|>"])
def test_a_stream_adds_up_to_the_unstreamed_answer(client, player, answer):
    player.play(answer)
    whole = client.messages.create(**ASK, tools=TOOLS)
    with client.messages.stream(**ASK, tools=TOOLS) as stream:
        final = stream.get_final_message()
    assert blocks(final) == blocks(whole)
    assert (final.stop_reason, final.usage) == (whole.stop_reason, whole.usage)


def test_the_events_of_a_stream_are_in_their_order(client, player):
    player.play("<think>Hm</think>A<|im_end|>")
    events = list(client.messages.create(**ASK, stream=True))
    deltas = [event.delta.type if event.type == "content_block_delta" else event.type for event in events]
    assert list(dict.fromkeys(deltas)) == [
        *("message_start", "content_block_start", "thinking_delta", "signature_delta", "content_block_stop"),
        *("text_delta", "message_delta", "message_stop"),
    ]
    assert [event.index for event in events if event.type == "content_block_start"] == [0, 1]
    assert events[0].message.usage.input_tokens == len(player.requests[-1].prompt_token_ids)


def test_the_reason_of_the_end_is_told(client, player):
    player.play("Ye", end=FinishReason.LENGTH)
    assert client.messages.create(**ASK).stop_reason == "max_tokens"
    player.play("Yes.<|im_end|>")
    assert client.messages.create(**ASK).stop_reason == "end_turn"
    player.play("Ye", end=FinishReason.ABORT)  # as at the end of its time
    assert client.messages.create(**ASK).stop_reason == "pause_turn"
    with client.messages.stream(**ASK) as stream:
        assert stream.get_final_message().stop_reason == "pause_turn"


@pytest.mark.parametrize(
    ("fields", "is_forced"),
    [
        ({"tool_choice": {"type": "any"}}, True),
        ({"tool_choice": {"type": "tool", "name": "weather"}}, True),
        ({"tools": [{**TOOLS[0], "strict": True}]}, True),
        ({"tool_choice": {"type": "auto"}}, False),
        ({"tool_choice": {"type": "none"}}, False),
    ],
)
def test_a_forced_call_and_a_strict_tool_need_a_grammar(client, player, fields, is_forced):
    player.play(CALLS)
    client.messages.create(**{**ASK, "tools": TOOLS, **fields})
    structure = player.requests[-1].params.structured_outputs
    assert (structure is not None) == is_forced


def test_arguments_that_are_no_object_are_given_as_they_are(client, player):
    player.play('<tool_call>{"name": "weather", "arguments": {"city": "Os')
    message = client.messages.create(**ASK, tools=TOOLS)
    assert [block[0] for block in blocks(message)] == ["tool_use"]
    assert blocks(message)[0][1] == {"INVALID_JSON": '{"city": "Os'}


def test_a_conversation_goes_on_and_its_tokens_are_counted(client, player):
    player.play("Yes.<|im_end|>")
    said = [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "tool_use", "id": "a", "name": "weather", "input": {"city": "Oslo"}},
    ]
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "18"}]}
    conversation = {
        "model": MODEL,
        "messages": [
            *ASK["messages"],
            {"role": "assistant", "content": said},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ],
        "tools": [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}],
    }
    client.messages.create(**conversation, max_tokens=9, extra_query={"beta": "true"})
    assert '<think>Hm.</think><tool_call>weather {"city": "Oslo"}</tool_call><|im_end|>' in player.prompt
    assert "<|im_start|>tool\n18<|im_end|>\n<|im_start|>user\nWell?<|im_end|>" in player.prompt
    assert "web_search" not in player.prompt
    count = client.messages.count_tokens(**conversation)
    assert count.input_tokens == len(player.requests[-1].prompt_token_ids)


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": {"type": "any"}},
        {"tool_choice": {"type": "tool", "name": "none"}, "tools": TOOLS},
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": [{"role": "robot", "content": "a"}]},
        {"extra_body": {"output_format": {"type": "json_schema"}}},
    ],
)
def test_what_cannot_be_honoured_is_refused_in_anthropics_shape(client, fields):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{**ASK, **fields})
    body = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert set(body["error"]) == {"type", "message"}


def test_other_errors_have_the_shape_too(client, player):
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(**{**ASK, "model": "other"})
    assert caught.value.body["error"]["type"] == "not_found_error"
    player.refusal = OverloadedError("the queue is full", retry_after_s=3)
    try:
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(**ASK)
    finally:
        player.refusal = None
    assert caught.value.body["error"]["type"] == "overloaded_error"
    assert caught.value.response.headers["retry-after"] == "3"
    player.play("Ye", end=None)
    player.failure = "the device is gone"
    with pytest.raises(anthropic.APIStatusError, match="the device is gone"):
        list(client.messages.create(**ASK, stream=True))
