"""Stations 1 and 2 without an engine: from a prompt and its parameters to a Request, or the reason why
not."""

import threading

import pytest

from jinfer import RequestError, SamplingParams
from jinfer.config import EngineLimits
from jinfer.requests.prompts import Prompt
from jinfer.requests.request_factory import RequestFactory
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import BOS, BOS_ID, EOS, EOS_ID, VOCAB_SIZE, tiny_tokenizer

ROWS = VOCAB_SIZE + 20  # of the model's embedding, more than the tokenizer has tokens
LIMITS = EngineLimits(page_size=4, num_pages=9, max_num_seqs=2, max_num_batched_tokens=16, max_model_len=20)


def factory(**changes) -> RequestFactory:
    tokenizer = Tokenizer(tiny_tokenizer(), special_tokens={"bos_token": BOS, "eos_token": EOS})
    return RequestFactory(
        **{
            "tokenizer": tokenizer,
            "vocab_size": ROWS,
            "eos_token_ids": frozenset({EOS_ID}),
            "sampling_defaults": {"temperature": 0.5},
            "limits": LIMITS,
            **changes,
        }
    )


def test_a_text_becomes_ids_and_none_of_the_parameters_stays_open():
    request = factory().create(Prompt(text=""), SamplingParams(top_k=3))

    assert (request.prompt, request.prompt_token_ids) == ("", (BOS_ID,))
    assert (request.params.temperature, request.params.top_k, request.params.min_p) == (0.5, 3, 0.0)
    (sequence,) = request.sequences
    assert sequence.stop_token_ids == {EOS_ID}
    assert sequence.detokenizer.add(tiny_tokenizer().encode("cat").ids[1])


def test_ids_without_a_token_are_ids_of_the_model():
    assert factory().create(Prompt(token_ids=(ROWS - 1,)), SamplingParams()).prompt_token_ids == (ROWS - 1,)


def test_requests_are_numbered_from_one_by_all_threads_together():
    shared, found = factory(tokenizer=None), []
    prompts, params = [Prompt(token_ids=(5,))] * 50, [SamplingParams()] * 50
    threads = [
        threading.Thread(target=lambda: found.extend(shared.create_all(prompts, params))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {request.request_id for request in found} == {f"request-{number}" for number in range(1, 201)}


@pytest.mark.parametrize(
    ("prompt", "params", "parts"),
    [
        (Prompt(token_ids=(5, -2)), {}, ("token id -2", f"from 0 to {ROWS - 1}")),
        (Prompt(token_ids=(ROWS,)), {}, (f"token id {ROWS}", f"from 0 to {ROWS - 1}")),
        (Prompt(token_ids=()), {}, ("has no tokens", "at least one")),
        (Prompt(token_ids=(5,) * 20), {}, ("20 tokens", "context holds 20", "shorten")),
        (Prompt(token_ids=(5,) * 32), {}, ("32 tokens", "8", "raise num_pages")),
        (Prompt(token_ids=(5,) * 10), {"min_tokens": 11}, ("min_tokens=11", "context of 20")),
        (
            Prompt(token_ids=(5,)),
            {"stop_token_ids": [ROWS]},
            (f"stop token id {ROWS}", f"vocabulary of {ROWS}"),
        ),
        (Prompt(text="a \udce9"), {}, ("lone surrogate", "character 2")),
    ],
)
def test_what_cannot_run_is_refused_with_the_numbers(prompt, params, parts):
    with pytest.raises(RequestError) as caught:
        factory().create(prompt, SamplingParams(**params))

    assert all(part in str(caught.value) for part in parts)


def test_several_completions_need_a_temperature_above_0_wherever_it_comes_from():
    with pytest.raises(RequestError, match=r"n=2 with temperature 0 .* use n=1"):
        factory(sampling_defaults={"temperature": 0.0}).create(Prompt(token_ids=(5,)), SamplingParams(n=2))


@pytest.mark.parametrize(
    ("prompt", "params", "what"),
    [(Prompt(text="a"), {}, "a prompt of text"), (Prompt(token_ids=(5,)), {"stop": "a"}, "stop strings")],
)
def test_without_a_tokenizer_there_are_ids_only(prompt, params, what):
    ids_only = factory(tokenizer=None)
    with pytest.raises(
        RequestError, match=rf"^{what} needs? a tokenizer, and the model has none; pass token ids"
    ):
        ids_only.create(prompt, SamplingParams(**params))

    (sequence,) = ids_only.create(Prompt(token_ids=(5,)), SamplingParams()).sequences
    assert sequence.detokenizer is None


def test_of_several_prompts_the_wrong_one_is_named():
    good, bad = Prompt(token_ids=(5,)), Prompt(token_ids=(-1,))
    with pytest.raises(RequestError, match=r"^prompts\[1\]: the prompt holds token id -1"):
        factory().create_all([good, bad], [SamplingParams()] * 2)
    with pytest.raises(RequestError, match=r"^the prompt holds token id -1"):
        factory().create_all([bad], [SamplingParams()])


@pytest.mark.parametrize("priority", [True, 1.5, "high", 2**31, -(2**31)])
def test_a_priority_is_a_small_integer(priority):
    with pytest.raises(RequestError, match="priority="):
        factory().create(Prompt(token_ids=(5,)), SamplingParams(), priority=priority)


def test_a_priority_is_that_of_every_request_of_a_call():
    prompts = [Prompt(token_ids=(5,))] * 2
    made = factory().create_all(prompts, [SamplingParams()] * 2, priority=-3)
    assert [request.priority for request in made] == [-3, -3]
