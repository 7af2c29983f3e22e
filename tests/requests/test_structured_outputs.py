"""What may be asked for."""

import json

import pytest

from jinfer.errors import RequestError
from jinfer.requests.structured_outputs import (
    MAX_CHOICES,
    MAX_GRAMMAR_BYTES,
    MAX_JSON_DEPTH,
    StructuredOutputs,
    json_object_of,
)


def nested(depth):
    value = {}
    for _ in range(depth - 1):
        value = {"items": value}
    return value


GOOD = [
    {"json": {"type": "object"}},
    {"json": '{"type": "object"}'},
    {"json": {}},
    {"json": nested(MAX_JSON_DEPTH)},
    {"json_object": True},
    {"regex": ""},
    {"choice": ("a", "")},
    {"grammar": 'start: "a"'},
    {"structural_tag": {"type": "structural_tag"}},
    {"regex": "a" * MAX_GRAMMAR_BYTES},
]


@pytest.mark.parametrize("options", GOOD, ids=lambda options: next(iter(options)))
def test_one_field_is_given(options):
    outputs = StructuredOutputs(**options)
    assert getattr(outputs, next(iter(options))) == next(iter(options.values()))


circle = {}
circle["items"] = circle

BAD = [
    ({}, "nothing"),
    ({"json_object": False}, "nothing"),
    ({"regex": "a", "choice": ["a"]}, "regex and choice"),
    ({"json": {}, "json_object": True}, "json and json_object"),
    ({"json": [1]}, "JSON object"),
    ({"json": "[1]"}, "JSON object"),
    ({"json": "true"}, "JSON object"),
    ({"json": "{"}, "no JSON"),
    ({"json": '{"minimum": NaN}'}, "no JSON"),
    ({"json": {"minimum": float("nan")}}, "no JSON"),
    ({"json": {"enum": [object()]}}, "no JSON"),
    ({"json": circle}, "no JSON"),
    ({"json": '{"a":' * 100_000}, "structured_outputs.json"),
    ({"json": nested(MAX_JSON_DEPTH + 1)}, f"more than {MAX_JSON_DEPTH} deep"),
    ({"json": {"description": "x" * MAX_GRAMMAR_BYTES}}, f"at most {MAX_GRAMMAR_BYTES}"),
    ({"json_object": 1}, "True or False"),
    ({"regex": b"a"}, "string"),
    ({"regex": "\ud800"}, "Unicode"),
    ({"regex": "é" * MAX_GRAMMAR_BYTES}, f"{2 * MAX_GRAMMAR_BYTES} bytes"),
    ({"choice": []}, f"1 to {MAX_CHOICES}"),
    ({"choice": ["a"] * (MAX_CHOICES + 1)}, f"1 to {MAX_CHOICES}"),
    ({"choice": "abc"}, "list of strings"),
    ({"choice": {"a"}}, "list of strings"),
    ({"choice": ["a", 1]}, "string"),
    ({"choice": ["a" * 1000] * 300}, "300000 bytes"),
    ({"grammar": 3}, "string"),
    ({"structural_tag": "{"}, "no JSON"),
]


@pytest.mark.parametrize(("options", "word"), BAD, ids=range(len(BAD)))
def test_anything_else_is_refused_with_the_rule(options, word):
    with pytest.raises(RequestError, match=word) as caught:
        StructuredOutputs(**options)
    assert "structured_outputs" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_object_is_copied_as_plain_data():
    given = {"properties": {"b": 1, "a": (2,)}}
    found = json_object_of("x", given)
    assert found == {"properties": {"b": 1, "a": [2]}}
    assert json.dumps(found) == '{"properties": {"b": 1, "a": [2]}}'
