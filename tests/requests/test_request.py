"""What is refused before it runs, with the numbers; and the sequences of what is accepted."""

import dataclasses

import pytest

from jinfer import FinishReason, RequestError, SamplingParams
from jinfer.config import EngineLimits
from jinfer.requests.new_request import SEED_MODULUS, SEED_STEP, create_request
from jinfer.requests.sampling_params import MAX_STOP_TOKEN_IDS

LIMITS = EngineLimits(page_size=4, num_pages=9, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=32)
VOCAB_SIZE = 100


def create(
    prompt_token_ids=(1, 2, 3),
    *,
    eos=(7,),
    vocab_size: int = VOCAB_SIZE,
    limits: EngineLimits = LIMITS,
    **params,
):
    resolved = SamplingParams(**params).with_defaults({})
    return create_request(
        "request-1",
        None,
        prompt_token_ids,
        resolved,
        eos_token_ids=frozenset(eos),
        vocab_size=vocab_size,
        limits=limits,
    )


def refused(match: str, *arguments, **options) -> None:
    with pytest.raises(RequestError, match=match):
        create(*arguments, **options)


def test_a_prompt_has_tokens():
    refused("the prompt has no tokens; give at least one", [])


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, 1.0, True, "1", None])
def test_a_prompt_has_ids_of_the_vocabulary(token_id):
    refused(f"the prompt holds token id {token_id!r}; ids are integers from 0 to 99", [0, token_id])


def test_the_first_and_the_last_id_are_allowed():
    assert create([0, VOCAB_SIZE - 1]).prompt_token_ids == (0, VOCAB_SIZE - 1)


def test_the_context_must_leave_a_token_for_the_output():
    limits = dataclasses.replace(LIMITS, num_pages=100)
    assert create([1] * 31, limits=limits).sequences[0].max_total_tokens == 32
    refused(
        "the prompt has 32 tokens and the context holds 32, of which one must be left",
        [1] * 32,
        limits=limits,
    )


def test_a_prompt_that_could_never_have_its_pages_is_refused():
    limits = dataclasses.replace(LIMITS, num_pages=6)
    create([1] * 19, limits=limits)
    refused(
        "the prompt has 20 tokens, which with one more need 6 pages of 4, and the KV cache has 5",
        [1] * 20,
        limits=limits,
    )


def test_stop_ids_are_bounded_with_the_models_own():
    create(stop_token_ids=range(20, 20 + MAX_STOP_TOKEN_IDS - 1))
    refused(
        "17 stop token ids, the end-of-sequence ids included; at most 16", stop_token_ids=list(range(20, 36))
    )
    create(stop_token_ids=list(range(20, 36)), ignore_eos=True)


def test_a_model_may_name_more_ends_of_sequence_than_min_tokens_can_block():
    many = range(30, 30 + MAX_STOP_TOKEN_IDS + 1)
    assert create(eos=many, stop_token_ids=[5]).sequences[0].stop_token_ids == {5, *many}
    refused(
        "17 stop token ids, the end-of-sequence ids included; at most 16, which min_tokens",
        eos=many,
        min_tokens=1,
    )
    create(eos=many, min_tokens=1, ignore_eos=True)


def test_a_stop_id_is_in_the_vocabulary():
    refused("stop token id 100 is outside the vocabulary of 100", stop_token_ids=[VOCAB_SIZE])


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_min_tokens_needs_a_token_to_choose(ignore_eos):
    stops = {"stop_token_ids": range(8), "vocab_size": 8, "ignore_eos": ignore_eos}
    create(**stops)
    refused("every token of the vocabulary is a stop token", **stops, min_tokens=1)


def test_min_tokens_fits_into_the_context():
    """Otherwise the promise is broken when the context ends, and a huge number does not fit into the device's
    words."""
    create(min_tokens=29)
    refused("min_tokens=30.*3 tokens.*32", min_tokens=30)
    refused("min_tokens=2147483647.*32", min_tokens=2**31 - 1)


def test_the_output_ends_at_max_tokens_or_the_context():
    assert create(max_tokens=5).sequences[0].max_total_tokens == 8
    assert create(max_tokens=29).sequences[0].max_total_tokens == 32
    assert create(max_tokens=2**31 - 1).sequences[0].max_total_tokens == 32
    assert create().sequences[0].max_total_tokens == 32


def test_stop_ids_are_the_models_and_the_callers():
    assert create(stop_token_ids=[3]).sequences[0].stop_token_ids == {3, 7}
    assert create(stop_token_ids=[3], ignore_eos=True).sequences[0].stop_token_ids == {3}
    assert create().sequences[0].stop_token_ids == {7}


def test_every_completion_is_a_sequence_with_a_seed_of_its_own():
    request = create(n=3, seed=SEED_MODULUS - 1)
    assert [sequence.index for sequence in request.sequences] == [0, 1, 2]
    seeds = [sequence.seed for sequence in request.sequences]
    assert seeds == [SEED_MODULUS - 1, SEED_STEP - 1, 2 * SEED_STEP % SEED_MODULUS - 1]
    request.sequences[0].token_ids.append(5)
    assert request.sequences[1].token_ids == [1, 2, 3]


def test_a_request_without_a_seed_gets_a_new_one():
    seeds = {create().sequences[0].seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < SEED_MODULUS for seed in seeds)


def test_output_is_what_follows_the_prompt():
    sequence = create().sequences[0]
    sequence.token_ids += [8, 9]
    sequence.num_pending_tokens = 1
    assert sequence.output_token_ids == [8, 9]
    assert (sequence.num_output_tokens, sequence.num_tokens) == (2, 6)


def test_a_request_is_finished_when_all_its_sequences_are():
    request = create(n=2)
    request.sequences[0].finish_reason = FinishReason.STOP
    assert not request.is_finished
    request.sequences[1].finish_reason = FinishReason.LENGTH
    assert request.is_finished


def test_finish_reasons_are_the_strings_of_the_api():
    assert list(FinishReason) == ["stop", "length", "abort", "error"]
