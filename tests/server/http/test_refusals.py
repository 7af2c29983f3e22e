"""Requests that are refused: each with a status, the field at fault and a remedy, and never with a 5xx."""

import json

import openai
import pytest

from tests.server.http.conftest import MODEL

MESSAGES = [{"role": "user", "content": "a"}]
NOT_HONOURED = [
    ("guided_whitespace_pattern", " "),
    ("logits_processors", ["x"]),
    ("use_beam_search", True),
    ("truncate_prompt_tokens", 5),
    ("best_of", 3),
]
OUTSIDE = [
    ("temperature", 3),
    ("temperature", 1e308),
    ("temperature", -1),
    ("top_p", 0),
    ("top_k", -2),
    ("min_p", 2),
    ("n", 0),
    ("n", 129),
    ("n", 10**9),
    ("max_tokens", -1),
    ("min_tokens", -1),
    ("seed", -1),
    ("seed", 2**64),
    ("stop", ["x"] * 100_000),
    ("stop", [""]),
    ("stop", "x" * 100_000),
    ("stop_token_ids", [-1]),
    ("cache_salt", ""),
    ("presence_penalty", 2.5),
    ("frequency_penalty", -3),
    ("repetition_penalty", 0),
    ("logit_bias", {"-5": 1}),
    ("logit_bias", {"five": 1}),
    ("logit_bias", {"9" * 5000: 1}),
    ("logit_bias", {str(10**6): 1}),
    ("logit_bias", {str(token_id): 1 for token_id in range(2000)}),
    ("bad_words", [""]),
    ("bad_words", ["x"] * 2000),
    ("bad_words", ["x" * 300]),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [10**6]),
    ("allowed_token_ids", [-1]),
    ("prompt_logprobs", -1),
    ("prompt_logprobs", 21),
    ("logprobs_mode", "raw"),
    ("structured_outputs", {"regexp": "a"}),
    ("structured_outputs", {"regex": "a", "choice": ["a"]}),
    ("structured_outputs", {"json": 5}),
    ("structured_outputs", {"choice": []}),
    ("guided_choice", ["a"] * 20_000),
    ("guided_json", "{"),
    ("response_format", {"type": "xml"}),
    ("response_format", {"type": "json_schema"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ("response_format", {"type": ["text"]}),
]
WRONG_TYPE = [
    ("temperature", "hot"),
    ("n", 1.5),
    ("n", True),
    ("stream", "yes"),
    ("stop", 5),
    ("stop_token_ids", ["a"]),
    ("stream_options", []),
    ("model", 5),
    ("logit_bias", [1]),
    ("logit_bias", {"5": "1"}),
    ("bad_words", "x"),
    ("allowed_token_ids", [1.5]),
    ("response_format", "json"),
    ("guided_regex", ["a"]),
]


def refused(http, body: dict | bytes, path: str = "/v1/completions", status: int = 400) -> dict:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(("name", "value"), NOT_HONOURED)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(http, name, value):
    assert refused(http, {"prompt": "a", name: value})["param"] == name
    assert refused(http, {"messages": MESSAGES, name: value}, "/v1/chat/completions")["param"] == name


@pytest.mark.parametrize(("name", "value"), [*OUTSIDE, *WRONG_TYPE], ids=lambda part: str(part)[:20])
def test_a_value_outside_its_rule_names_its_field(http, name, value):
    assert refused(http, {"prompt": "a", name: value})["param"] == name
    assert refused(http, {"messages": MESSAGES, name: value}, "/v1/chat/completions")["param"] == name


@pytest.mark.parametrize(
    ("name", "neutral"),
    [
        ("presence_penalty", 0),
        ("repetition_penalty", 1.0),
        ("logit_bias", {}),
        ("response_format", {"type": "text"}),
        ("response_format", {}),
        ("structured_outputs", {}),
        ("structured_outputs", {"json": None, "disable_any_whitespace": False}),
        ("bad_words", []),
        ("use_beam_search", False),
        ("guided_json", None),
        ("best_of", 1),
    ],
)
def test_a_value_that_asks_for_nothing_passes(http, name, neutral):
    assert (
        http.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, name: neutral}).status_code == 200
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chat_template", "{{ 1 }}"),
        ("echo", True),
        ("max_tokens", 0),
        ("functions", [{"name": "f"}]),
        ("modalities", ["audio"]),
        ("top_logprobs", 3),
        ("messages", []),
        ("messages", [{"content": "a"}]),
        ("messages", [{"role": "user"}]),
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}],
        ),
        ("messages", [{"role": "user", "content": "a"}] * 5000),
        ("tools", [{"type": "function"}] * 500),
        ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}),
        ("chat_template_kwargs", {"messages": []}),
        ("messages", "text"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_chat_refuses_what_is_no_conversation(http, field, value):
    error = refused(http, {"messages": MESSAGES, field: value}, "/v1/chat/completions")
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": "a", "max_tokens": 0, "min_tokens": 1},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": [1, "a"]},
        {"prompt": [10**6]},
        {"prompt": [-1]},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "echo": True, "logprobs": 21},
        {"prompt": "a", "prompt_logprobs": 1, "stream": True},
        {"prompt": "a", "guided_regex": "a", "response_format": {"type": "json_object"}},
        {"prompt": "a", "allowed_token_ids": [2], "min_tokens": 1, "stop_token_ids": [2]},
        {"prompt": "a", "logprobs": 21},
        {"prompt": ["a"] * 2000},
        {"prompt": ["a"] * 20, "n": 100},
        {"prompt": "word " * 2000},
        {"prompt": "a", "n": 2, "temperature": 0},
        {"prompt": "a", "min_tokens": 1000},
    ],
    ids=lambda body: str(body)[:30],
)
def test_completions_refuse_what_can_never_run(http, body):
    assert refused(http, body)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "a", "logit_bias": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"prompt": "a", "unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_what_is_no_json_is_refused(http, raw):
    refused(http, raw)


def test_nul_and_odd_characters_are_a_prompt(http):
    for prompt in ("\x00", "a\x00b", "\uffff", "😀", "\u202e"):
        answer = http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})
        assert answer.status_code == 200, answer.text


def test_a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not(http):
    body = json.dumps({"prompt": "x" * 10_000_000}).encode()
    assert refused(http, body, status=413)["code"] == "body_too_large"
    chunks = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    answer = http.post("/v1/completions", content=chunks, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "max_body_bytes=" in answer.json()["error"]["message"]


def test_another_type_of_body_is_refused(http):
    answer = http.post("/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/health", 405),
        ("GET", "/v1/models/none", 404),
    ],
)
def test_the_frameworks_errors_have_the_same_shape(http, method, path, status):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_errors_are_the_right_classes_of_openais_client(client):
    with pytest.raises(openai.BadRequestError, match="temperature=9") as caught:
        client.completions.create(model=MODEL, prompt="a", temperature=9)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="not served here") as missing:
        client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="at least one message"):
        client.chat.completions.create(model=MODEL, messages=[], stream=True)


@pytest.mark.parametrize("num_prompts", [1, 2])
def test_a_prompt_that_is_too_long_has_openais_code(client, num_prompts):
    with pytest.raises(openai.BadRequestError, match="the context holds 512") as caught:
        client.completions.create(model=MODEL, prompt=["a"] * (num_prompts - 1) + ["word " * 600])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 600}], stream=True
        )
    assert caught.value.code == "context_length_exceeded"


def test_tokens_become_text_and_back(http):
    tokens = http.post("/tokenize", json={"prompt": "A cat sat.", "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == 512
    bare = http.post("/tokenize", json={"prompt": "A cat sat.", "add_special_tokens": False}).json()["tokens"]
    assert tokens["tokens"][1:] == bare
    assert http.post("/detokenize", json={"tokens": bare}).json() == {"prompt": "A cat sat."}
    refused(http, {"tokens": [10**6]}, "/detokenize")
    refused(http, {"prompt": "a", "messages": MESSAGES}, "/tokenize")
    info = http.get("/tokenizer_info").json()
    assert info["eos_token"] == info["bos_token"] == "<|endoftext|>"
    assert info["chat_template"].startswith("{% for message in messages %}")
