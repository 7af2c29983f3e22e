"""What the messages of an engine do to the front's queues: text that ends a sequence, and messages that come
too late."""

import asyncio

import numpy as np
import pytest

from jinfer import FinishReason, SamplingParams, StructuredOutputs
from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.requests.outputs import RequestOutput
from jinfer.requests.prompts import Prompt
from jinfer.requests.request import Request
from jinfer.requests.request_factory import RequestFactory
from jinfer.requests.request_rules import RulesFactory
from jinfer.requests.token_masker import mask_of
from jinfer.server.submissions import Submissions
from jinfer.server.waiting_line import QueueLimits
from jinfer.server.wire import (
    Begun,
    End,
    PromptLogprobs,
    Step,
    Submit,
    decode_for_engine,
    decode_for_front,
    encode,
)
from jinfer.server.wire_requests import from_wire
from jinfer.text.grammar.grammar_masker import GrammarMasker
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import VOCAB_SIZE, tiny_tokenizer
from tests.server.fakes import LIMITS, run
from tests.text.grammar.walking import accepts, allowed_ids

TOKENIZER = Tokenizer(tiny_tokenizer())
RULES = RulesFactory(TOKENIZER, vocab_size=VOCAB_SIZE, eos_token_ids={1})


END = End(0, 5, FinishReason.LENGTH, None, None, False)


def new_queue(**params) -> AsyncOutputQueue:
    factory = RequestFactory(
        tokenizer=TOKENIZER,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=frozenset({1}),
        sampling_defaults={},
        limits=LIMITS,
        makes_maskers=False,
    )
    request = factory.create(Prompt(text="once"), SamplingParams(**params))
    return AsyncOutputQueue([request], Waker(asyncio.get_running_loop()), deadline=None)


def step(keys=(), token_ids=(), *, ends=(), begun=()) -> Step:
    return Step(list(keys), list(token_ids), list(ends), list(begun), [], None)


def ids_of(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def test_a_stop_string_ends_its_sequence_and_the_engine_is_told():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(stop=" cat", n=2, seed=1)
        submissions.add(queue)
        told = []
        for token_id in ids_of(" the cat sat on"):
            told += submissions.apply(step([0, 1], [token_id, 5])).keys
        assert told == [0]
        (output,) = [RequestOutput.of(request) for request in queue.requests]
        assert (output.outputs[0].text, output.outputs[0].stop_reason) == (" the", " cat")
        assert output.outputs[0].finish_reason is FinishReason.STOP
        assert output.outputs[1].finish_reason is None
        assert not submissions.is_idle.is_set()
        submissions.apply(step(ends=[End(1, 1, FinishReason.STOP, None, None, False)]))
        assert queue.is_complete
        assert submissions.is_idle.is_set()
        assert submissions.remove(queue) is None

    run(use())


def test_where_text_and_engine_both_end_a_sequence_the_text_counts_as_with_llm():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(stop=" the", max_tokens=1)
        submissions.add(queue)
        (the,) = ids_of(" the")
        answer = submissions.apply(step(ends=[End(0, the, FinishReason.LENGTH, None, None, False)]))
        assert answer.keys == []  # the engine knows
        (sequence,) = queue.requests[0].sequences
        assert (sequence.finish_reason, sequence.stop_reason) == (FinishReason.STOP, " the")

    run(use())


def test_an_end_that_only_the_engine_knows_brings_the_text_that_was_held_back():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(stop=" the rain")
        submissions.add(queue)
        (the,) = ids_of(" the")
        submissions.apply(step(ends=[End(0, the, FinishReason.STOP, "grammar", None, False)]))
        (output,) = await queue.take()
        assert (output.text, output.finish_reason) == (" the", FinishReason.STOP)
        assert output.sequence.stop_reason == "grammar"

    run(use())


def test_what_comes_after_the_end_changes_nothing():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue()
        submissions.add(queue)
        assert submissions.remove(queue) == 0
        answer = submissions.apply(step([0, 7], [5, 5], ends=[END], begun=[Begun(0, 0, 0.1)]))
        assert (answer.keys, answer.submissions) == ([], [])
        assert queue.requests[0].sequences[0].num_output_tokens == queue.num_untaken == 0
        submissions.fail(0, "too late")

    run(use())


def test_no_text_crosses_and_all_that_the_engine_needs_does():
    async def use() -> None:
        params = {"seed": 2**64 - 1, "n": 2, "min_tokens": 3, "cache_salt": "salt", "logprobs": 2}
        queue = new_queue(stop=" secret", top_p=0.5, stop_token_ids=[9], max_tokens=20, **params)
        (request,) = queue.requests
        request.priority = -7
        message = encode(Submissions(QueueLimits()).add(queue))
        assert b"secret" not in message
        assert b"once" not in message
        submit = decode_for_engine(message)
        assert isinstance(submit, Submit)
        (arrived,) = from_wire(submit, RULES)
        assert arrived.prompt_token_ids == request.prompt_token_ids
        assert arrived.priority == -7
        for name in ("temperature", "top_p", "top_k", "min_p", "min_tokens", "cache_salt", "logprobs"):
            assert getattr(arrived.params, name) == getattr(request.params, name)
        for ours, theirs in zip(request.sequences, arrived.sequences, strict=True):
            assert (theirs.index, theirs.seed, theirs.token_ids) == (ours.index, ours.seed, ours.token_ids)
            assert theirs.stop_token_ids == ours.stop_token_ids == {1, 9}
            assert theirs.max_total_tokens == ours.max_total_tokens
            assert theirs.detokenizer is None
            assert not theirs.has_stop_strings

    run(use())


def sent(**params) -> Request:
    """A request as it arrives at the engine."""

    async def send() -> bytes:
        return encode(Submissions(QueueLimits()).add(new_queue(**params)))

    submit = decode_for_engine(run(send()))
    assert isinstance(submit, Submit)
    (request,) = from_wire(submit, RULES)
    return request


def test_the_rules_of_logits_are_made_anew_from_the_parameters():
    arrived = sent(
        presence_penalty=1,
        frequency_penalty=-0.5,
        repetition_penalty=1.5,
        logit_bias={7: 200, 8: -3},
        allowed_token_ids=[5, 6],
        logprobs=1,
        logprobs_mode="processed_logprobs",
        prompt_logprobs=3,
    )
    rules = arrived.logits_rules
    assert rules is not None
    assert (rules.presence_penalty, rules.frequency_penalty, rules.repetition_penalty) == (1.0, -0.5, 1.5)
    assert rules.bias == {7: 100.0, 8: -3.0}
    np.testing.assert_array_equal(rules.allowed_mask, mask_of([5, 6], VOCAB_SIZE))
    assert (arrived.params.prompt_logprobs, arrived.params.logprobs_mode) == (3, "processed_logprobs")
    assert arrived.sequences[0].masker is None
    assert sent(max_tokens=3).logits_rules is None


def test_parameters_that_requests_share_cross_once():
    async def send() -> bytes:
        factory = RequestFactory(
            tokenizer=TOKENIZER,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=frozenset({1}),
            sampling_defaults={},
            limits=LIMITS,
            makes_maskers=False,
        )
        shared, other = SamplingParams(allowed_token_ids=[5, 6]), SamplingParams(top_k=3)
        requests = factory.create_all([Prompt(text="once")] * 3, [shared, other, shared])
        queue = AsyncOutputQueue(requests, Waker(asyncio.get_running_loop()), deadline=None)
        return encode(Submissions(QueueLimits()).add(queue))

    submit = decode_for_engine(run(send()))
    assert isinstance(submit, Submit)
    assert [each.params.top_k for each in submit.params] == [0, 3]
    first, second, third = from_wire(submit, RULES)
    assert list(from_wire(submit, RULES).values()) == [0, 1, 2]
    assert (first.params, second.params.top_k, third.params) == (third.params, 3, first.params)
    assert first.logits_rules is third.logits_rules
    assert second.logits_rules is None


def test_bad_words_become_maskers_at_the_engine():
    q, z = ids_of("qz")
    for sequence in sent(bad_words=["qz"], n=2, seed=1).sequences:
        sequence.masker.accept(q)
        assert z not in allowed_ids(sequence.masker, VOCAB_SIZE)


LARGE = 10**30  # than any integer of a message


@pytest.mark.parametrize(
    ("structure", "output"),
    [
        (StructuredOutputs(json={"const": LARGE}), str(LARGE)),
        (StructuredOutputs(json='{"enum": ["qz"]}'), '"qz"'),
        (StructuredOutputs(choice=("qz", "dog")), "dog"),
        (StructuredOutputs(regex="[a-c]+"), "abc"),
        (
            StructuredOutputs(
                structural_tag={
                    "type": "structural_tag",
                    "triggers": ["<f"],
                    "structures": [{"begin": "<f>", "schema": {"const": LARGE}, "end": "</f>"}],
                }
            ),
            f"so <f>{LARGE}</f>",
        ),
    ],
    ids=["object", "text", "choice", "regex", "structural_tag"],
)
def test_structures_become_maskers_at_the_engine(structure, output):
    pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")
    (sequence,) = sent(structured_outputs=structure).sequences
    assert isinstance(sequence.masker, GrammarMasker)
    sequence.masker.wait()
    assert accepts(sequence.masker, ids_of(output), VOCAB_SIZE)
    assert 1 in allowed_ids(sequence.masker, VOCAB_SIZE)


def test_a_structure_that_cannot_be_had_is_an_error_of_the_request_alone():
    first, second = sent(
        n=2, seed=1, structured_outputs=StructuredOutputs(structural_tag={"type": "none"})
    ).sequences
    for sequence in (first, second):
        assert sequence.masker.is_ready
        assert "structural_tag" in str(sequence.masker.error)


def test_a_prompts_log_probabilities_are_there_before_the_output():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(prompt_logprobs=1)
        submissions.add(queue)
        (request,) = queue.requests
        parts = [[None, {5: -1.0, 6: -0.5}], [{7: -2.0}]]
        for start, part in ((0, parts[0]), (2, parts[1])):
            message = decode_for_front(encode(PromptLogprobs(0, start, part)))
            assert isinstance(message, PromptLogprobs)
            submissions.add_prompt_logprobs(message)
        assert request.prompt_logprobs == [*parts[0], *parts[1]]
        submissions.add_prompt_logprobs(PromptLogprobs(9, 0, parts[0]))  # of one that is gone
        submissions.apply(step(ends=[END]))

    run(use())


def test_a_refusal_is_told_from_a_fault():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(n=2, seed=1)
        submissions.add(queue)
        ends = [End(key, None, FinishReason.ERROR, None, "why", key == 1) for key in (0, 1)]
        submissions.apply(step(ends=ends))
        first, second = queue.requests[0].sequences
        assert [(each.error, each.is_refused) for each in (first, second)] == [("why", False), ("why", True)]

    run(use())
