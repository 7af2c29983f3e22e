"""Structures of answers through every endpoint, kept by the model that ships."""

import json
import re

import httpx
import jsonschema
import openai
import pytest

from tests.server.http.conftest import MODEL

pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")
SCHEMA = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog"]}, "is_big": {"type": "boolean"}},
    "required": ["animal", "is_big"],
    "additionalProperties": False,
}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA, "strict": True}}
MESSAGES = [{"role": "user", "content": "Which animal?"}]
LOOKING_AROUND = {"regex": "(?=a)b"}


def kept(text: str) -> None:
    jsonschema.validate(json.loads(text), SCHEMA)


def completion(http: httpx.Client, **fields) -> dict:
    answer = http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 60, "seed": 1, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[a-f]{3} [0-9]"}, "[a-f]{3} [0-9]"),
        ({"guided_choice": ["red", "blue"]}, "red|blue"),
        ({"guided_grammar": 'start: "x" ("y" | "w") "z"'}, "x[yw]z"),
        ({"structured_outputs": {"regex": "(ab){2}", "json": None}}, "abab"),
    ],
    ids=["regex", "choice", "grammar", "structured_outputs"],
)
def test_a_completion_has_the_structure(http, fields, pattern):
    choice = completion(http, **fields)
    assert re.fullmatch(pattern, choice["text"])
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "fields",
    [
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"response_format": JSON_SCHEMA},
    ],
)
def test_every_way_to_give_a_schema(http, fields):
    choice = completion(http, **fields)
    kept(choice["text"])
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_chat_has_the_structure(client, stream):
    asked = {"messages": MESSAGES, "response_format": JSON_SCHEMA, "max_tokens": 60, "n": 2, "seed": 2}
    answer = client.chat.completions.create(model=MODEL, stream=stream, **asked)
    texts = ["", ""]
    for each in answer if stream else [answer]:
        for choice in each.choices:
            texts[choice.index] += (choice.delta if stream else choice.message).content or ""
    for text in texts:
        kept(text)


def test_a_response_has_the_structure(client):
    wanted = {"format": {"type": "json_schema", "name": "pet", "schema": SCHEMA}}
    answer = client.responses.create(model=MODEL, input="Which animal?", text=wanted, max_output_tokens=60)
    kept(answer.output_text)


def test_a_message_has_the_structure(http):
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 60}
    wanted = {"type": "json_schema", "schema": SCHEMA}
    for field in ({"output_format": wanted}, {"output_config": {"format": wanted}}):
        kept(http.post("/v1/messages", json={**body, **field}).json()["content"][0]["text"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("structure", "words"),
    [
        (LOOKING_AROUND, "look-around"),
        ({"grammar": "start: nothing"}, "nothing"),
        ({"json": {"type": "object", "$ref": "#/nowhere"}}, "the grammar cannot be kept"),
        ({"structural_tag": {"type": "none"}}, "structural_tag"),
    ],
    ids=["regex", "grammar", "json", "structural_tag"],
)
def test_a_structure_that_cannot_be_kept_is_refused_before_a_stream_begins(http, structure, words, stream):
    body = {"prompt": "Once", "max_tokens": 5, "structured_outputs": structure, "stream": stream}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["error"]["message"]


def test_min_tokens_that_the_structure_cannot_give_are_refused(http):
    body = {"prompt": "Once", "guided_choice": ["a"], "min_tokens": 30, "max_tokens": 60}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert "min_tokens=30 must not exceed what the structure allows" in answer.json()["error"]["message"]


def test_the_client_parses_what_it_asked_for(client):
    pydantic = pytest.importorskip("pydantic")
    pet = pydantic.create_model("Pet", is_big=(bool, ...))
    answer = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=pet, max_tokens=60)
    assert isinstance(answer.choices[0].message.parsed.is_big, bool)


def test_an_unstructured_answer_beside_is_as_it_was(client: openai.OpenAI, http):
    alone = completion(http, temperature=0, max_tokens=12)
    with client.completions.create(
        model=MODEL, prompt="Once", max_tokens=300, stream=True, extra_body={"guided_regex": "(ab)*"}
    ) as structured:
        assert next(iter(structured)).choices[0].text in "ababab"
        assert completion(http, temperature=0, max_tokens=12)["text"] == alone["text"]
