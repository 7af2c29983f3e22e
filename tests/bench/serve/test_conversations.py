"""What each workload asks, and how a turn and its history become the body of a request."""

import json

import pytest

from jinfer import ConfigError
from jinfer.bench.serve.bodies import request_body
from jinfer.bench.serve.conversations import WorkloadOptions, find_conversations

LINES = [
    {"prompt": "Hi"},
    {"prompt": [1, 2, 3]},
    {"turns": ["a", "b"]},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
]
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,7,3\n2023-11-16 18:15:50.0,9,5\n"


def options(**changes) -> WorkloadOptions:
    return WorkloadOptions(**{"seed": 0, "vocab_size": 256, "output_len": 16, "ignore_eos": False, **changes})


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    return str(file)


def body(endpoint: str, conversation, history=(), **fields) -> dict:
    return json.loads(request_body(endpoint, conversation, history, fields))


def test_random_prompts_are_new_for_each_number_and_the_same_for_each_seed():
    found = find_conversations("random-8x3", options(vocab_size=64))
    first, second = found.get(0), found.get(1)
    assert first == find_conversations("random-8x3", options(vocab_size=64)).get(0)
    assert first != second
    assert first != find_conversations("random-8x3", options(vocab_size=64, seed=1)).get(0)
    assert len(first.turns[0]) == 8
    assert max(max(found.get(number).turns[0]) for number in range(100)) == 63
    assert (first.output_len, first.ignore_eos, found.count) == (3, True, None)


def test_mixed_lengths_are_within_their_bounds():
    found = [find_conversations("mixed", options()).get(number) for number in range(50)]
    assert all(100 <= length <= 1024 for each in found for length in (len(each.turns[0]), each.output_len))
    assert len({each.output_len for each in found}) > 30


def test_a_trace_has_lengths_and_times(tmp_path):
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    found = find_conversations("trace", options(trace=str(file), speed=2.0))
    assert (found.count, found.times_s) == (2, (0, 2))
    assert [(len(found.get(n).turns[0]), found.get(n).output_len) for n in range(2)] == [(7, 3), (9, 5)]
    assert find_conversations("trace", options(trace=str(file), duration_s=4.0)).count == 1


def test_a_file_has_prompts_and_conversations(prompts):
    found = find_conversations("conversations", options(prompts=prompts))
    assert found.count == 4
    turns = [found.get(number).turns for number in range(5)]
    assert turns[:3] == [("Hi",), ((1, 2, 3),), ("a", "b")]
    assert turns[4] == turns[0], "it begins again"
    assert find_conversations("prompts", options(prompts=prompts)).get(2).turns == ("a",)
    asked = found.get(0)
    assert (asked.output_len, asked.ignore_eos) == (16, False)


def test_a_body_of_completions(prompts):
    found = find_conversations("conversations", options(prompts=prompts))
    whole = body("completions", found.get(0), temperature=0, top_k=3)
    assert whole == {
        "prompt": "Hi",
        "max_tokens": 16,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "top_k": 3,
    }
    assert body("completions", found.get(1))["prompt"] == [1, 2, 3]
    assert body("completions", found.get(2), [("a", "A.")])["prompt"] == "a\nA.\nb"
    forced = find_conversations("random-8x3", options()).get(0)
    assert body("completions", forced)["ignore_eos"] is True


def test_a_body_of_chat(prompts):
    found = find_conversations("conversations", options(prompts=prompts))
    assert body("chat", found.get(2), [("a", "A.")])["messages"] == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "A."},
        {"role": "user", "content": "b"},
    ]
    assert body("chat", found.get(3))["messages"] == LINES[3]["messages"]


def test_an_endpoint_refuses_what_it_does_not_take(prompts):
    found = find_conversations("conversations", options(prompts=prompts))
    with pytest.raises(ConfigError, match="chat takes no token ids"):
        body("chat", found.get(1))
    with pytest.raises(ConfigError, match="completions takes no messages"):
        body("completions", found.get(3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no line"),
        ('{"prompt": "a"}\nHi\n', "line 2: a line is a JSON object with prompt, messages or turns"),
        ('{"question": "a"}', "line 1: a line is"),
        ('{"prompt": [1, "a"]}', "line 1: a line is"),
        ('{"turns": "ab"}', "line 1: a line is"),
        ('{"turns": []}', "line 1 has nothing to say"),
        ('{"prompt": ""}', "line 1 has nothing to say"),
        (b"\xff", "cannot be read as UTF-8"),
    ],
)
def test_a_file_that_is_none_is_an_error(tmp_path, content, message):
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        find_conversations("prompts", options(prompts=str(file)))


@pytest.mark.parametrize("name", ["", "random", "random-0x1", "random-1x", "b1", "conversation"])
def test_an_unknown_workload_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match="there are random-INxOUT"):
        find_conversations(name, options())
