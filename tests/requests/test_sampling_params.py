"""Every rule of the sampling parameters, at its bounds and beyond, and what an error says."""

import dataclasses
import math

import numpy as np
import pytest

from jinfer import JinferError, RequestError, SamplingParams, StructuredOutputs
from jinfer.requests.logits_rules import MAX_LOGIT_BIAS
from jinfer.requests.sampling_params import (
    MAX_BAD_WORD_LENGTH,
    MAX_BAD_WORDS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOP_STRING_LENGTH,
    MAX_STOP_STRINGS,
    MODEL_DEFAULTS,
)

INTEGERS = {
    "n": (1, MAX_N),
    "top_k": (-1, 2**31 - 1),
    "seed": (0, 2**64 - 1),
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
}
REALS = {
    "temperature": (0, 2),
    "top_p": (1e-6, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.001, 1000),
}
NUMBERS = [*INTEGERS, *REALS]


def refused(match: str, **params) -> None:
    with pytest.raises(RequestError, match=match):
        SamplingParams(**params)


def test_defaults():
    params = SamplingParams()
    assert (params.n, params.min_tokens, params.logprobs, params.seed) == (1, 0, None, None)
    assert (params.max_tokens, params.stop_strings, params.stop_token_ids) == (None, (), None)
    assert (params.include_stop_str_in_output, params.ignore_eos, params.skip_special_tokens) == (
        False,
        False,
        True,
    )
    resolved = params.with_defaults({})
    assert (resolved.temperature, resolved.top_p, resolved.top_k, resolved.min_p) == (1.0, 1.0, 0, 0.0)


@pytest.mark.parametrize(("name", "bounds"), INTEGERS.items())
def test_integers_are_accepted_within_their_bounds_and_refused_outside(name, bounds):
    for bound in bounds:
        assert getattr(SamplingParams(**{name: bound}), name) == bound
    for outside in (bounds[0] - 1, bounds[1] + 1):
        refused(f"{name}={outside} must be an integer from {bounds[0]} to {bounds[1]}", **{name: outside})


@pytest.mark.parametrize(("name", "bounds"), REALS.items())
def test_reals_are_accepted_within_their_bounds_and_refused_outside(name, bounds):
    for bound in bounds:
        assert getattr(SamplingParams(**{name: bound}), name) == bound
    refused(f"{name}={bounds[0] - 0.1} must be a finite number", **{name: bounds[0] - 0.1})
    above = math.nextafter(bounds[1], math.inf)
    refused(f"{name}={above} must be a finite number", **{name: above})


def test_top_p_of_zero_would_keep_nothing():
    refused("top_p=0.0 must be a finite number above 0 and at most 1", top_p=0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, False, "1", 1j, [1]])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_finite_and_no_bool_or_string(name, value):
    refused(f"{name}=", **{name: value})


@pytest.mark.parametrize("value", [1.0, 0.5, np.float32(1)])
@pytest.mark.parametrize("name", INTEGERS)
def test_an_integer_is_no_real(name, value):
    refused(f"{name}=", **{name: value})


@pytest.mark.parametrize("name", ["n", "min_tokens", "presence_penalty", "frequency_penalty"])
def test_what_has_no_absence_refuses_none(name):
    refused(f"{name}=None", **{name: None})


def test_greedy_needs_one_completion():
    refused("n=2 with temperature 0 would give 2 equal texts", n=2, temperature=0)
    SamplingParams(n=2, temperature=0.1)
    SamplingParams(n=1, temperature=0)


def test_a_model_whose_default_is_greedy_gives_one_completion_only():
    with pytest.raises(RequestError, match="n=2 with temperature 0"):
        SamplingParams(n=2).with_defaults({"temperature": 0.0})


def test_min_tokens_is_at_most_max_tokens():
    refused("min_tokens=3 must not exceed max_tokens=2", min_tokens=3, max_tokens=2)
    SamplingParams(min_tokens=2, max_tokens=2)


@pytest.mark.parametrize(
    ("stop", "strings"), [(None, ()), ("a", ("a",)), ("ab", ("ab",)), (["a", "b"], ("a", "b"))]
)
def test_stop_is_a_string_or_several(stop, strings):
    assert SamplingParams(stop=stop).stop_strings == strings


@pytest.mark.parametrize("stop", ["", [""], ["a", ""], [1], [None], ["x" * (MAX_STOP_STRING_LENGTH + 1)]])
def test_a_stop_string_has_a_bounded_length(stop):
    refused("must be a string of 1 to 1024 characters", stop=stop)


def test_stop_strings_are_bounded_in_number():
    SamplingParams(stop=["a"] * MAX_STOP_STRINGS)
    refused("17 stop strings; at most 16", stop=["a"] * (MAX_STOP_STRINGS + 1))


@pytest.mark.parametrize("token_ids", [[-1], [True], [1.0], ["1"], [3, None]])
def test_stop_token_ids_are_ids(token_ids):
    refused("stop_token_ids holds", stop_token_ids=token_ids)


@pytest.mark.parametrize(
    "params",
    [{"stop": 5}, {"stop_token_ids": 5}, {"allowed_token_ids": 5}, {"bad_words": 5}, {"logit_bias": 5}],
)
def test_what_is_no_list_is_refused_as_such(params):
    refused(f"{next(iter(params))}=5", **params)


@pytest.mark.parametrize("name", ["include_stop_str_in_output", "ignore_eos", "skip_special_tokens"])
def test_a_switch_is_true_or_false(name):
    refused(f"{name}='no'", **{name: "no"})


def test_an_unknown_parameter_is_an_error_that_lists_the_known():
    with pytest.raises(RequestError, match=r"unknown sampling parameter 'temprature'.*temperature.*logprobs"):
        SamplingParams.from_options({"temprature": 1})
    assert SamplingParams.from_options({"top_k": 3}) == SamplingParams(top_k=3)


def test_a_models_defaults_are_taken_only_for_what_is_not_given():
    params = SamplingParams(temperature=0.5, top_k=0).with_defaults(
        {"temperature": 0.1, "top_k": 20, "top_p": 0.9}
    )
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.5, 0, 0.9, 0.0)
    assert all(getattr(params, name) is not None for name in MODEL_DEFAULTS)


def test_an_invalid_default_of_a_model_is_refused():
    with pytest.raises(RequestError, match="top_p=2"):
        SamplingParams().with_defaults({"top_p": 2})


def test_params_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().n = 2


def test_an_error_is_a_value_error_of_the_library():
    assert issubclass(RequestError, ValueError)
    assert issubclass(RequestError, JinferError)


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 10**5000, float("inf"), float("nan")],
    ids=lambda x: f"{x:.0e}"[:9] if isinstance(x, float) else "integer",
)
@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "min_p", "top_k", "seed", "max_tokens", "n", "logprobs", "min_tokens"]
)
def test_a_number_of_any_size_is_refused_by_its_rule(name, value):
    with pytest.raises(RequestError, match=f"{name}=.* must be ") as caught:
        SamplingParams(**{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["stop", "stop_token_ids", "allowed_token_ids", "bad_words"])
@pytest.mark.parametrize(
    "value", [b"\x01\x02", bytearray(b"\x01"), memoryview(b"\x01"), {1: 2}], ids=lambda x: type(x).__name__
)
def test_collections_of_integers_that_are_no_token_ids_are_refused(name, value):
    with pytest.raises(RequestError, match=f"{name}=.* must be "):
        SamplingParams(**{name: value})


def test_rules_of_logits_are_off_unless_they_are_given():
    params = SamplingParams().with_defaults({})
    assert (params.presence_penalty, params.frequency_penalty, params.repetition_penalty) == (0.0, 0.0, 1.0)
    assert (params.logit_bias, params.allowed_token_ids, params.bad_words) == (None, None, None)
    assert (params.prompt_logprobs, params.structured_outputs) == (None, None)
    assert params.logprobs_mode == "raw_logprobs"


def test_a_bias_is_a_finite_number_of_a_token_id():
    assert SamplingParams(logit_bias={7: -1e9, 8: 3}).logit_bias == {7: -1e9, 8: 3}
    refused("logit_bias holds -1; token ids", logit_bias={-1: 1.0})
    refused("logit_bias holds '7'; token ids", logit_bias={"7": 1.0})
    for value in (math.nan, math.inf, -math.inf, True, "1", None):
        refused(r"logit_bias\[7\]=.* must be a finite number", logit_bias={7: value})
    refused(r"logit_bias=\[1, 2\] must map token ids", logit_bias=[1, 2])


def test_biases_are_bounded_in_number():
    SamplingParams(logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS), 1.0))
    refused("logit_bias has 1025 entries", logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1.0))


@pytest.mark.parametrize("token_ids", [[-1], [True], [1.0], ["1"], [3, None]])
def test_allowed_token_ids_are_ids(token_ids):
    refused("allowed_token_ids holds", allowed_token_ids=token_ids)


def test_an_allowed_token_id_is_there():
    refused("allowed_token_ids has 0 entries; give 1 to ", allowed_token_ids=[])
    SamplingParams(allowed_token_ids=[5])


def test_bad_words_are_texts_of_a_bounded_length():
    SamplingParams(bad_words=[])
    SamplingParams(bad_words=["a", " b c"])
    refused(r"bad_words='cat' must be a list of strings; give \['cat'\]", bad_words="cat")
    for word in ("", 1, None, "x" * (MAX_BAD_WORD_LENGTH + 1)):
        refused("bad_words=.* must be a string of 1 to 256 characters", bad_words=["a", word])


def test_bad_words_are_bounded_in_number():
    SamplingParams(bad_words=["a"] * MAX_BAD_WORDS)
    refused("bad_words has 1025 entries", bad_words=["a"] * (MAX_BAD_WORDS + 1))


@pytest.mark.parametrize("value", ["raw", None, 1, "raw_logits"])
def test_log_probabilities_are_raw_or_processed(value):
    SamplingParams(logprobs_mode="processed_logprobs")
    refused("logprobs_mode=.* must be one of raw_logprobs, processed_logprobs", logprobs_mode=value)


def test_structured_outputs_are_an_object_or_as_an_option_a_mapping():
    rule = StructuredOutputs(regex="a+")
    assert SamplingParams(structured_outputs=rule).structured_outputs is rule
    assert SamplingParams.from_options({"structured_outputs": {"regex": "a+"}}).structured_outputs == rule
    refused("structured_outputs={.* must be a StructuredOutputs", structured_outputs={"regex": "a+"})
    with pytest.raises(RequestError, match="structured_outputs has 'regexp'; give exactly one of json, "):
        SamplingParams.from_options({"structured_outputs": {"regexp": "a+"}})
