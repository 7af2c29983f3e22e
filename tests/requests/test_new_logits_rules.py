"""The rules of logits that follow from parameters, and those that leave nothing to choose."""

import numpy as np
import pytest

from jinfer import RequestError, SamplingParams, StructuredOutputs
from jinfer.requests.bad_words import BadWords
from jinfer.requests.logits_rules import LogitsRules
from jinfer.requests.new_logits_rules import new_logits_rules
from jinfer.requests.token_masker import allows

VOCAB_SIZE = 70
EOS_ID = 2


def rules(bad: BadWords | None = None, **params) -> LogitsRules | None:
    resolved = SamplingParams(**params).with_defaults({})
    return new_logits_rules(resolved, bad, stop_token_ids={EOS_ID}, vocab_size=VOCAB_SIZE)


def allowed(found: LogitsRules | None) -> set[int]:
    assert found is not None
    assert found.allowed_mask is not None
    assert found.allowed_mask.dtype == np.uint32
    assert found.allowed_mask.shape == (3,)
    return {token_id for token_id in range(96) if allows(found.allowed_mask, token_id)}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"logprobs": 3},
        {"logprobs_mode": "processed_logprobs"},
        {"logit_bias": {}},
        {"bad_words": []},
        {"presence_penalty": 0, "frequency_penalty": -0.0, "repetition_penalty": 1},
        {"prompt_logprobs": 0},
        {"stop_token_ids": [5], "min_tokens": 3},
    ],
)
def test_nothing_asked_for_is_no_rules(params):
    assert rules(**params) is None


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"presence_penalty": -2}, {"presence_penalty": -2}),
        ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"logit_bias": {7: 1e9, 8: -1e9, 9: 3}}, {"bias": {7: 100.0, 8: -100.0, 9: 3.0}}),
        ({"logprobs": 0, "logprobs_mode": "processed_logprobs"}, {}),
        ({"structured_outputs": StructuredOutputs(regex="a")}, {}),
    ],
)
def test_what_is_asked_for_is_a_rule_and_all_else_changes_nothing(params, expected):
    found = rules(**params)
    assert found is not None
    neutral = vars(LogitsRules())
    assert vars(found) == {**neutral, **expected}


def test_allowed_ids_are_the_bits_of_a_mask():
    assert allowed(rules(allowed_token_ids=[0, 31, 32, 69, 69])) == {0, 31, 32, 69}


def test_bad_words_of_one_token_are_out_of_the_mask():
    bad = BadWords({(): frozenset({5, 31}), (7,): frozenset({8})})
    assert allowed(rules(bad, bad_words=["x"])) == set(range(VOCAB_SIZE)) - {5, 31}
    assert allowed(rules(bad, bad_words=["x"], allowed_token_ids=[5, 8])) == {8}


def test_bad_words_of_several_tokens_are_no_mask():
    found = rules(BadWords({(7,): frozenset({8})}), bad_words=["x"])
    assert found is not None
    assert found.allowed_mask is None


@pytest.mark.parametrize("params", [{"logit_bias": {70: 1}}, {"allowed_token_ids": [5, 70]}])
def test_ids_are_of_the_vocabulary(params):
    name = next(iter(params))
    with pytest.raises(
        RequestError, match=f"{name} holds token id 70, which is outside the vocabulary of 70"
    ) as e:
        rules(**params)
    assert e.value.param == name


def test_an_allowed_set_that_bad_words_empty_is_refused():
    bad = BadWords({(): frozenset({5, 6})})
    with pytest.raises(RequestError, match="bad_words forbid all of the 2 tokens that are allowed"):
        rules(bad, bad_words=["x"], allowed_token_ids=[5, 6, 5])


def test_an_allowed_set_of_ends_leaves_min_tokens_nothing():
    rules(allowed_token_ids=[EOS_ID])
    rules(allowed_token_ids=[EOS_ID, 3], min_tokens=1)
    with pytest.raises(
        RequestError, match="min_tokens=4 needs tokens that end no output, and the 1 that"
    ) as caught:
        rules(allowed_token_ids=[EOS_ID], min_tokens=4)
    assert caught.value.param == "min_tokens"
