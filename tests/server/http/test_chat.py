"""/v1/chat/completions as OpenAI's client, with the model that ships and a plain template."""

import json

import openai
import pytest

from tests.server.http.conftest import MODEL
from tests.server.http.test_completions import events

GREEDY = {"model": MODEL, "temperature": 0, "max_completion_tokens": 8}
RANDOM = {"model": MODEL, "temperature": 1, "max_tokens": 8, "seed": 7}
MESSAGES = [{"role": "user", "content": "Tell me of a dog."}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_an_answer_is_what_the_templates_prompt_gives(client, http):
    answer = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    prompt = http.post("/tokenize", json={"messages": MESSAGES}).json()["tokens"]
    text = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=8).choices[0].text
    assert answer.choices[0].message.content == text != ""
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 8


def test_a_stream_begins_with_the_role_and_adds_up(client):
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY).choices[0].message.content
    chunks = list(
        client.chat.completions.create(
            messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert "".join(chunk.choices[0].delta.content for chunk in chunks[:-1]) == whole
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 8 + ["length"]
    assert len({(chunk.id, chunk.created, chunk.object) for chunk in chunks}) == 1


def test_several_answers_interleave_by_index(client):
    answer = client.chat.completions.create(messages=MESSAGES, n=2, **RANDOM)
    streamed = ["", ""]
    for chunk in client.chat.completions.create(messages=MESSAGES, n=2, stream=True, **RANDOM):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == [choice.message.content for choice in answer.choices]
    assert streamed[0] != streamed[1]


def test_logprobs_have_bytes_and_the_likeliest(client):
    answer = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=2, **GREEDY)
    content = answer.choices[0].logprobs.content
    assert (
        bytes(byte for token in content for byte in token.bytes).decode() == answer.choices[0].message.content
    )
    assert [len(token.top_logprobs) for token in content] == [2] * 8
    assert all(token.top_logprobs[0].token == token.token for token in content)
    without = client.chat.completions.create(messages=MESSAGES, logprobs=True, **GREEDY)
    assert [token.top_logprobs for token in without.choices[0].logprobs.content] == [[]] * 8
    assert [token.logprob for token in without.choices[0].logprobs.content] == [t.logprob for t in content]


def test_content_may_be_parts_and_the_last_message_continued(client, http):
    parts = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "of a dog."}],
        }
    ]
    ids = [
        http.post("/tokenize", json={"messages": messages}).json()["tokens"] for messages in (MESSAGES, parts)
    ]
    assert ids[0] == ids[1]
    begun = [*MESSAGES, {"role": "assistant", "content": "Once upon"}]
    body = {"messages": begun, "continue_final_message": True, "add_generation_prompt": False}
    ids = http.post("/tokenize", json=body).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["prompt"].endswith("assistant: Once upon")
    assert http.post("/v1/chat/completions", json={**body, **GREEDY}).json()["usage"]["prompt_tokens"] == len(
        ids
    )


def test_tools_may_be_there_and_none_be_forced_where_the_model_has_no_format_of_calls(client):
    for choice in ("auto", "none"):
        answer = client.chat.completions.create(messages=MESSAGES, tools=[TOOL], tool_choice=choice, **GREEDY)
        assert answer.choices[0].message.tool_calls is None
    for choice in ("required", {"type": "function", "function": {"name": TOOL["function"]["name"]}}):
        with pytest.raises(
            openai.BadRequestError, match="no grammar is known of the format 'plain'"
        ) as caught:
            client.chat.completions.create(messages=MESSAGES, tools=[TOOL], tool_choice=choice, **GREEDY)
        assert caught.value.param == "tools"


def test_what_load_generators_send_is_accepted(http):
    body = {
        "messages": MESSAGES,
        "max_tokens": 4,
        "max_completion_tokens": 4,
        "ignore_eos": True,
        "best_of": 1,
    }
    body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chunks = events(http.post("/v1/chat/completions", json={**body, "temperature": 0.0}).text)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4, 4]
    assert json.dumps(chunks[0]["choices"][0]["delta"]["role"]) == '"assistant"'


def test_each_chunk_counts_the_tokens_up_to_its_own_where_many_come_at_once(played, player):
    player.play("<think>So.</think>Yes.")
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chat = played.chat.completions.create(model=MODEL, messages=MESSAGES, **options)
    text = played.completions.create(model=MODEL, prompt="Well?", **options)
    num_tokens = len("So.Yes.") + 2  # a token each byte and each marker
    assert [chunk.usage.completion_tokens for chunk in chat] == [*range(num_tokens + 1), num_tokens]
    assert [chunk.usage.completion_tokens for chunk in text] == [*range(1, num_tokens + 1), num_tokens]
