"""What the messages of an engine do to the front's queues: text that ends a sequence, and messages that come
too late."""

import asyncio

from jinfer import FinishReason, SamplingParams
from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.requests.outputs import RequestOutput
from jinfer.requests.prompts import Prompt
from jinfer.requests.request_factory import RequestFactory
from jinfer.server.submissions import Submissions
from jinfer.server.waiting_line import QueueLimits
from jinfer.server.wire import Begun, End, Step, Submit, decode_for_engine, encode
from jinfer.server.wire_requests import from_wire
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import VOCAB_SIZE, tiny_tokenizer
from tests.server.fakes import LIMITS, run

TOKENIZER = Tokenizer(tiny_tokenizer())


def new_queue(**params) -> AsyncOutputQueue:
    factory = RequestFactory(
        tokenizer=TOKENIZER,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=frozenset({1}),
        sampling_defaults={},
        limits=LIMITS,
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
        submissions.apply(step(ends=[End(1, 1, FinishReason.STOP, None, None)]))
        assert queue.is_complete
        assert submissions.is_idle.is_set()
        assert submissions.remove(queue) is None

    run(use())


def test_where_text_and_engine_both_end_a_sequence_the_text_counts_as_with_llm():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(stop=" the", max_tokens=1)
        submissions.add(queue)
        (the,) = ids_of(" the")
        answer = submissions.apply(step(ends=[End(0, the, FinishReason.LENGTH, None, None)]))
        assert answer.keys == []  # the engine knows
        (sequence,) = queue.requests[0].sequences
        assert (sequence.finish_reason, sequence.stop_reason) == (FinishReason.STOP, " the")

    run(use())


def test_an_end_that_only_the_engine_knows_brings_the_text_that_was_held_back():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue(stop=" the rain")
        submissions.add(queue)
        (the,) = ids_of(" the")
        submissions.apply(step(ends=[End(0, the, FinishReason.STOP, "grammar", None)]))
        (output,) = await queue.take()
        assert (output.text, output.finish_reason) == (" the", FinishReason.STOP)
        assert output.sequence.stop_reason == "grammar"

    run(use())


def test_what_comes_after_the_end_changes_nothing():
    async def use() -> None:
        submissions, queue = Submissions(QueueLimits()), new_queue()
        submissions.add(queue)
        assert submissions.remove(queue) == 0
        answer = submissions.apply(
            step([0, 7], [5, 5], ends=[End(0, 5, FinishReason.LENGTH, None, None)], begun=[Begun(0, 0, 0.1)])
        )
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
        arrived = from_wire(submit.requests[0])
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
