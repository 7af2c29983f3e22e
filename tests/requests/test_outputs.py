"""What callers get of the prompt's log probabilities."""

import pytest

from jinfer import RequestOutput, SamplingParams
from jinfer.requests.prompts import Prompt
from tests.requests.test_request_factory import factory


@pytest.mark.parametrize(
    ("wanted", "found", "given"),
    [
        (None, None, None),
        (1, [None, {5: -1.0, 6: -0.5}], (None, {5: -1.0, 6: -0.5})),
        (1, None, (None, None)),  # it has not begun
    ],
)
def test_prompt_logprobs_are_given_where_they_were_asked_for(wanted, found, given):
    request = factory(tokenizer=None).create(Prompt(token_ids=(5, 5)), SamplingParams(prompt_logprobs=wanted))
    request.prompt_logprobs = found
    assert RequestOutput.of(request).prompt_logprobs == given
