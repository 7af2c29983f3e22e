"""The options of sampling on the command line, as parameters."""

import pytest

from jinfer import RequestError, SamplingParams, StructuredOutputs
from jinfer.cli.command import _parser
from jinfer.cli.options import sampling_params


def params_of(*words: str) -> SamplingParams:
    return sampling_params(_parser().parse_args(words))


def test_penalties_words_and_structures_are_those_of_the_parameters():
    penalties = ("--presence-penalty", "0.5", "--frequency-penalty", "-1", "--repetition-penalty", "1.2")
    expected = {"presence_penalty": 0.5, "frequency_penalty": -1.0, "repetition_penalty": 1.2}
    assert params_of("chat", *penalties) == SamplingParams(**expected)
    rules = ("--bad-words", "a b", "--bad-words", "c", "--prompt-logprobs", "0")
    structure = ("--structured-outputs", '{"json": {"const": 5}}')
    assert params_of("generate", *penalties, *rules, *structure) == SamplingParams(
        **expected,
        bad_words=["a b", "c"],
        prompt_logprobs=0,
        structured_outputs=StructuredOutputs(json={"const": 5}),
    )


def test_what_is_not_given_is_the_default():
    assert params_of("generate") == params_of("chat") == SamplingParams()


@pytest.mark.parametrize("value", ["{", "[1]", "5", '{"regex": NaN}'])
def test_a_structure_that_is_no_object_is_an_error_of_the_option(value, capsys):
    with pytest.raises(SystemExit):
        params_of("generate", "--structured-outputs", value)
    assert "argument --structured-outputs: the value=" in capsys.readouterr().err


def test_a_structure_of_two_rules_is_an_error_of_the_parameters():
    with pytest.raises(RequestError, match="structured_outputs has regex and choice; give exactly one"):
        params_of("generate", "--structured-outputs", '{"regex": "a", "choice": ["b"]}')
