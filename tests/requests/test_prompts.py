"""The forms in which prompts, conversations and parameters may be given."""

import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.errors import ConfigError, RequestError
from jinfer.requests.prompts import Prompt, as_conversations, as_params, as_prompts, split_options
from jinfer.requests.sampling_params import SamplingParams

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a text", [Prompt(text="a text")]),
        ("", [Prompt(text="")]),
        (["one", "two"], [Prompt(text="one"), Prompt(text="two")]),
        ([1, 2], [Prompt(token_ids=(1, 2))]),
        ((1, 2), [Prompt(token_ids=(1, 2))]),
        (range(2), [Prompt(token_ids=(0, 1))]),
        ([[1, 2], [3]], [Prompt(token_ids=(1, 2)), Prompt(token_ids=(3,))]),
        (["one", (3, 4)], [Prompt(text="one"), Prompt(token_ids=(3, 4))]),
        ([[]], [Prompt(token_ids=())]),
        (np.array([1, 2]), [Prompt(token_ids=(1, 2))]),
        (np.array([[1, 2], [3, 4]]), [Prompt(token_ids=(1, 2)), Prompt(token_ids=(3, 4))]),
        ([np.array([1, 2]), np.array([3])], [Prompt(token_ids=(1, 2)), Prompt(token_ids=(3,))]),
        (list(np.array([1, 2])), [Prompt(token_ids=(1, 2))]),
        ([list(np.array([1, 2], np.uint8))], [Prompt(token_ids=(1, 2))]),
        (jnp.array([1, 2]), [Prompt(token_ids=(1, 2))]),
        ([jnp.array([1, 2])], [Prompt(token_ids=(1, 2))]),
        ([jnp.array(1), jnp.array(2)], [Prompt(token_ids=(1, 2))]),
    ],
)
def test_a_prompt_is_text_or_ids_and_prompts_are_a_list_of_either(given, expected):
    prompts = as_prompts(given)

    assert prompts == expected
    assert all(type(token_id) is int for prompt in prompts for token_id in prompt.token_ids or ())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "empty"),
        (np.array([], np.int32), "empty"),
        (None, "NoneType"),
        (5, "int"),
        (np.array(5), "ndarray"),
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        ([True, 2], r"prompts\[0\] is True"),
        (["a", 5], r"prompts\[1\] is 5"),
        ([1, "a"], r"prompts\[0\] is 1"),
        ([1.5], r"prompts\[0\] is 1.5"),
        (np.array([1.5]), r"prompts\[0\] is 1.5"),
        (["a", None], r"prompts\[1\] is None"),
        ([[1, "a"]], r"prompts\[0\] is \[1, 'a'\]"),
        ([[[1]]], r"prompts\[0\] is \[\[1\]\]"),
        ([np.array([[1, 2]])], r"prompts\[0\] is array"),
    ],
)
def test_anything_else_is_refused_with_what_it_is_and_what_a_prompt_is(given, message):
    with pytest.raises(RequestError, match=message) as caught:
        as_prompts(given)

    assert any(remedy in str(caught.value) for remedy in ("a string or a list of token ids", "give"))


def test_one_conversation_is_a_list_of_one_and_several_are_as_given():
    assert as_conversations(HELLO) == [HELLO]
    assert as_conversations(tuple(HELLO)) == [HELLO]
    assert as_conversations([HELLO, HELLO]) == [HELLO, HELLO]


@pytest.mark.parametrize(("given", "message"), [([], "empty"), (HELLO[0], "dict"), (None, "NoneType")])
def test_messages_that_are_no_list_are_refused_with_a_remedy_that_is_about_messages(given, message):
    with pytest.raises(RequestError, match=message) as caught:
        as_conversations(given)

    assert "message" in str(caught.value).partition(";")[2]


def test_params_are_one_for_all_or_one_for_each_or_keywords():
    one, other = SamplingParams(seed=1), SamplingParams(seed=2)

    assert as_params(one, {}, 2) == [one, one]
    assert as_params([one, other], {}, 2) == [one, other]
    assert as_params((one, other), {}, 2) == [one, other]
    assert as_params(None, {"seed": 1}, 2) == [one, one]
    assert as_params(None, {}, 1) == [SamplingParams()]


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (SamplingParams(), {"seed": 1}, "'seed'"),
        ([SamplingParams()], {}, "1 params for 2 prompts"),
        ([SamplingParams()] * 3, {}, "3 params for 2 prompts"),
        ([SamplingParams(), {"seed": 1}], {}, "one SamplingParams"),
        ({"seed": 1}, {}, "dict"),
        (None, {"temprature": 1}, "'temprature'.*temperature"),
    ],
)
def test_params_that_do_not_match_the_prompts_are_refused(params, options, message):
    with pytest.raises(RequestError, match=message):
        as_params(params, options, 2)


def test_options_of_the_one_line_call_go_where_they_belong():
    engine, sampling = split_options({"page_size": 8, "temperature": 0, "tokenizer": "x"})

    assert engine == {"page_size": 8, "tokenizer": "x"}
    assert sampling == {"temperature": 0}


def test_an_unknown_option_of_the_one_line_call_is_answered_with_all_that_there_are():
    with pytest.raises(ConfigError) as caught:
        split_options({"page_size": 8, "temprature": 0})

    for part in ("unknown option 'temprature'", "page_size", "tokenizer", "temperature", "stop_token_ids"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "given", [b"\x01\x02", bytearray(b"\x01"), memoryview(b"\x01\x02")], ids=lambda x: type(x).__name__
)
def test_bytes_are_no_token_ids_wherever_they_stand(given):
    for prompts in (given, [given], [[1, 2], given]):
        with pytest.raises(RequestError, match=r"a prompt is a string or a list of token ids|give a string"):
            as_prompts(prompts)


def test_an_array_of_one_text_is_that_text_and_not_its_characters():
    assert as_prompts(np.array("one text")) == as_prompts([np.array("one text")]) == [Prompt(text="one text")]
