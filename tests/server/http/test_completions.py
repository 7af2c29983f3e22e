"""/v1/completions as OpenAI's client, and what is beyond it as plain HTTP."""

import itertools
import json

import pytest

from tests.server.http.conftest import MODEL

GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 8}
RANDOM = {"model": MODEL, "temperature": 1, "max_tokens": 8, "seed": 7}
PROMPT = "Once upon a time"


def events(text: str) -> list[dict]:
    """The objects of a stream, whose last event must say that it is the end."""
    frames = [frame.removeprefix("data: ") for frame in text.split("\n\n") if frame]
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


def test_models_are_listed_with_their_context(client, http):
    first, second = client.models.list().data
    assert (first.id, second.id) == (MODEL, "other-name")
    assert first.max_model_len == 512
    assert client.models.retrieve("other-name").id == "other-name"
    assert http.get("/v1/models").json()["models"] == []  # Codex's


def test_a_completion_has_text_usage_and_a_reason(client):
    answer = client.completions.create(prompt=PROMPT, **GREEDY)
    assert answer.model == MODEL
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_adds_up_to_the_answer(client):
    whole = client.completions.create(prompt=PROMPT, **GREEDY).choices[0].text
    chunks = list(
        client.completions.create(
            prompt=PROMPT, stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    *parts, usage = chunks
    assert "".join(chunk.choices[0].text for chunk in parts) == whole
    assert len(parts) == 8  # one a token
    assert [chunk.choices[0].finish_reason for chunk in parts] == [None] * 7 + ["length"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == 8
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


def test_equal_seeds_give_equal_texts(client):
    texts = {client.completions.create(prompt=PROMPT, **RANDOM).choices[0].text for _ in range(2)}
    assert len(texts) == 1
    assert client.completions.create(prompt=PROMPT, **{**RANDOM, "seed": 8}).choices[0].text not in texts


def test_several_completions_come_by_index_streamed_or_not(client):
    answer = client.completions.create(prompt=PROMPT, n=3, **RANDOM)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in client.completions.create(prompt=PROMPT, n=3, stream=True, **RANDOM):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts


def test_a_stop_string_is_left_out_and_told(client):
    whole = client.completions.create(prompt=PROMPT, **GREEDY).choices[0].text
    word = whole.split()[2]
    choice = client.completions.create(prompt=PROMPT, stop=[word], **GREEDY).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.stop_reason == word
    assert whole.startswith(choice.text)
    assert word not in choice.text


def test_lists_of_texts_and_of_ids_are_prompts(client, http):
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    answer = client.completions.create(prompt=[ids, [5, 6, 7]], **GREEDY)
    texts = client.completions.create(prompt=[PROMPT, "A cat"], **GREEDY)
    assert answer.choices[0].text == texts.choices[0].text
    assert answer.usage.prompt_tokens == len(ids) + 3
    assert [choice.index for choice in texts.choices] == [0, 1]
    assert client.completions.create(prompt=ids, **GREEDY).choices[0].text == texts.choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_first(http, stream):
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    for prompt in (PROMPT, ids):
        body = {"prompt": prompt, "echo": True, "stream": stream, **GREEDY}
        answer = http.post("/v1/completions", json=body)
        chunks = events(answer.text) if stream else [answer.json()]
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        plain = http.post("/v1/completions", json={"prompt": prompt, **GREEDY}).json()["choices"][0]["text"]
        assert text == PROMPT + plain


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_no_tokens_give_the_prompt_alone(http, stream, echo):
    ids = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    options = {"stream_options": {"include_usage": True}, "stream": True} if stream else {}
    body = {"prompt": [PROMPT, "A cat"], "echo": echo, **GREEDY, "max_tokens": 0, **options}
    answer = http.post("/v1/completions", json=body)
    chunks = events(answer.text) if stream else [answer.json()]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = {choice["index"]: (choice["text"], choice["finish_reason"]) for choice in choices}
    assert texts == {0: (PROMPT if echo else "", "length"), 1: ("A cat" if echo else "", "length")}
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == 0
    assert usage["total_tokens"] == usage["prompt_tokens"] > len(ids)


def test_logprobs_are_of_the_chosen_and_the_likeliest(client):
    answer = client.completions.create(prompt=PROMPT, logprobs=3, **GREEDY)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert len(logprobs.token_logprobs) == 8
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert top[token] == logprob == max(top.values()) < 0  # greedy: the likeliest
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    chunks = client.completions.create(prompt=PROMPT, logprobs=3, stream=True, **GREEDY)
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [one.tokens[0] for one in streamed] == logprobs.tokens
    assert [one.text_offset[0] for one in streamed] == logprobs.text_offset


def test_every_chunk_may_have_the_counts(http):
    body = {
        "prompt": PROMPT,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "return_token_ids": True,
        **GREEDY,
    }
    *chunks, last = events(http.post("/v1/completions", json=body).text)
    counts = itertools.accumulate(len(chunk["choices"][0]["token_ids"]) for chunk in chunks)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == list(counts)
    assert chunks[-1]["usage"]["completion_tokens"] == last["usage"]["completion_tokens"] == 8


def test_a_prefix_that_was_computed_is_told_as_cached(client):
    prompt = "The little dog ran to the big tree and saw a red ball under it. " * 2
    for _ in range(2):
        usage = client.completions.create(prompt=prompt, **GREEDY).usage
    assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens


def test_ids_are_returned_where_they_are_asked_for(http):
    body = {"prompt": PROMPT, "return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": 0}
    choice = http.post("/v1/completions", json={**body, **GREEDY}).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token_id}" for token_id in choice["token_ids"]]
    assert choice["prompt_token_ids"] == http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    chunks = events(http.post("/v1/completions", json={**body, "stream": True, **GREEDY}).text)
    assert [i for chunk in chunks for i in chunk["choices"][0]["token_ids"]] == choice["token_ids"]


def test_what_load_generators_send_is_accepted(http):
    body = {"prompt": PROMPT, "best_of": 1, "ignore_eos": True, "nonsense": {"a": [1]}, "logit_bias": {}}
    assert http.post("/v1/completions", json={**body, **GREEDY}).json()["usage"]["completion_tokens"] == 8
