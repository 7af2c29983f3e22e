"""Fields that change which tokens are chosen, and the log probabilities of prompts."""

import pytest

from tests.server.http.conftest import MODEL

GREEDY = {"model": MODEL, "max_tokens": 8, "temperature": 0}
PROMPT = "Once upon a time"


def complete(http, **fields) -> dict:
    answer = http.post(
        "/v1/completions", json={"prompt": PROMPT, "return_token_ids": True, **GREEDY, **fields}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


@pytest.fixture
def plain(http) -> dict:
    return complete(http, logprobs=2)


def test_a_bias_of_string_keys_chooses_its_token(http, plain):
    wanted = plain["token_ids"][0] + 1
    assert complete(http, logit_bias={str(wanted): 100})["token_ids"] == [wanted] * 8
    assert (
        plain["token_ids"][0]
        not in complete(http, logit_bias={str(plain["token_ids"][0]): -100})["token_ids"]
    )


def test_allowed_ids_are_all_that_comes(http, plain):
    allowed = plain["token_ids"][:2]
    assert set(complete(http, allowed_token_ids=allowed)["token_ids"]) <= set(allowed)


def test_bad_words_do_not_come(http, plain):
    word = plain["text"].split()[0]
    assert word not in complete(http, bad_words=[word])["text"].split()


def test_a_token_that_came_is_penalised(http):
    for fields in ({"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 1.5}):
        plain = complete(http, max_tokens=40, ignore_eos=True)["token_ids"]
        penalised = complete(http, max_tokens=40, ignore_eos=True, **fields)["token_ids"]
        assert len(set(penalised)) > len(set(plain))


def test_processed_log_probabilities_are_those_of_the_choice(http, plain):
    ids = plain["token_ids"][:2]
    raw = complete(http, allowed_token_ids=ids, temperature=1, seed=1, logprobs=2)
    processed = complete(
        http, allowed_token_ids=ids, temperature=1, seed=1, logprobs=2, logprobs_mode="processed_logprobs"
    )
    assert raw["token_ids"] == processed["token_ids"]
    for before, after in zip(
        raw["logprobs"]["token_logprobs"], processed["logprobs"]["token_logprobs"], strict=True
    ):
        assert before < after


def test_echoed_prompts_have_log_probabilities_as_their_outputs_had(http, plain):
    """The tokens that were chosen, sent as a prompt: what lm-eval asks."""
    prompt = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    asked = {"prompt": [prompt + plain["token_ids"]], "echo": True, "logprobs": 2, "max_tokens": 1}
    logprobs = complete(http, **asked)["logprobs"]
    length = len(prompt) + 8
    assert {name: len(each) for name, each in logprobs.items()} == dict.fromkeys(logprobs, length + 1)
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    scores, expected = logprobs["token_logprobs"][len(prompt) : -1], plain["logprobs"]["token_logprobs"]
    assert scores == pytest.approx(expected, abs=1e-4)
    assert logprobs["tokens"][len(prompt) : -1] == plain["logprobs"]["tokens"]
    for ours, theirs in zip(
        logprobs["top_logprobs"][len(prompt) : -1], plain["logprobs"]["top_logprobs"], strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_prompt_may_be_scored_without_any_output(http, plain):
    asked = {"echo": True, "logprobs": 1, "prompt": [PROMPT, "The dog"]}
    body = {**GREEDY, **asked, "max_tokens": 0}
    answers = http.post("/v1/completions", json=body).json()["choices"]
    longer = http.post("/v1/completions", json={**body, "max_tokens": 1}).json()["choices"]
    for answer, one in zip(answers, longer, strict=True):
        assert answer["logprobs"] == {name: each[:-1] for name, each in one["logprobs"].items()}


def test_a_stream_has_the_prompts_log_probabilities_in_its_first_chunk(client):
    asked = {"prompt": [PROMPT, "The dog"], "echo": True, "logprobs": 1, **GREEDY}
    whole = client.completions.create(**asked)
    tokens, scores = [[], []], [[], []]
    for chunk in client.completions.create(stream=True, **asked):
        for choice in chunk.choices:
            tokens[choice.index] += choice.logprobs.tokens
            scores[choice.index] += choice.logprobs.token_logprobs
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert scores == [choice.logprobs.token_logprobs for choice in whole.choices]


def test_prompt_logprobs_have_vllms_shape(http):
    prompt = http.post("/tokenize", json={"prompt": PROMPT}).json()["tokens"]
    choice = complete(http, prompt_logprobs=2, n=1)
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert len(others) == len(prompt) - 1
    for token_id, found in zip(prompt[1:], others, strict=True):
        assert str(token_id) in found
        by_rank = sorted((each for each in found.values() if each["rank"]), key=lambda each: each["rank"])
        assert [each["rank"] for each in by_rank] == [1, 2]
        assert (
            by_rank[0]["logprob"] >= by_rank[1]["logprob"] >= min(each["logprob"] for each in found.values())
        )
        assert all(isinstance(each["decoded_token"], str) for each in found.values())
    assert "prompt_logprobs" not in complete(http) or complete(http)["prompt_logprobs"] is None
    messages = [{"role": "user", "content": "Hi"}]
    answer = http.post(
        "/v1/chat/completions", json={"messages": messages, "prompt_logprobs": 0, **GREEDY}
    ).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
