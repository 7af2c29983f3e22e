"""The front's client and the engine process's loop, joined by a socket pair: the engine has no jax, and runs
in a thread of the test."""

import asyncio
from concurrent.futures import Future

import pytest

from jinfer import EngineError, FinishReason, ModelNotFoundError
from jinfer.requests.request import Request
from jinfer.server import engine_outbox
from jinfer.server.wire import Abort
from tests.server.fakes import (
    SECONDS,
    SLOW_STEP_S,
    EngineThread,
    FallibleDevice,
    begun,
    connected,
    expected_tokens,
    new_engine,
    new_queue,
    outputs_of,
    run,
    until,
)

PROMPTS = [(1, 2, 3), range(20), (7,), range(30, 41), (5, 5, 5), range(3)]


def check_outputs(queue_requests: tuple[Request, ...], outputs: list, num_tokens: int) -> None:
    for request in queue_requests:
        for sequence in request.sequences:
            own = [output for output in outputs if output.sequence is sequence]
            assert [output.token_id for output in own] == expected_tokens(sequence, num_tokens)
            assert sequence.output_token_ids == expected_tokens(sequence, num_tokens)
            assert [output.finish_reason for output in own[:-1]] == [None] * (num_tokens - 1)
            assert sequence.finish_reason is own[-1].finish_reason is FinishReason.LENGTH


def test_every_sequence_gets_its_own_tokens():
    async def use() -> None:
        client = await connected(engine)
        queues = [new_queue([prompt], max_tokens=9, n=n) for n in (1, 3) for prompt in PROMPTS]
        for queue in queues:
            client.submit(queue)
        assert client.num_queued_requests == len(queues)
        for queue, outputs in zip(queues, await asyncio.gather(*map(outputs_of, queues)), strict=True):
            check_outputs(queue.requests, outputs, 9)
        await client.heartbeat()
        assert client.stats().num_used_pages == client.num_queued_requests == client.num_queued_tokens == 0
        assert client.stats().num_generated_tokens == 9 * 4 * len(PROMPTS)
        await client.close()

    engine = EngineThread(new_engine())
    run(use())
    assert engine.join() == 0
    assert engine.num_given_back
    assert not engine.was_left.is_set()


def test_a_request_knows_its_times_and_what_the_cache_had():
    async def use() -> None:
        client = await connected(engine)
        for num_cached_tokens in (0, 18):
            queue = new_queue([range(19)], max_tokens=2)
            client.submit(queue)
            await outputs_of(queue)
            (request,) = queue.requests
            assert request.num_cached_tokens == num_cached_tokens
            assert request.arrival_time <= request.begun_time
            assert request.begun_time <= request.first_token_time <= request.finished_time
        await client.close()

    engine = EngineThread(new_engine())
    run(use())


def test_log_probabilities_come_with_the_tokens():
    async def use() -> None:
        client = await connected(engine)
        asking, other = new_queue(max_tokens=5, logprobs=1), new_queue(max_tokens=5)
        client.submit(asking)
        client.submit(other)
        await asyncio.gather(outputs_of(asking), outputs_of(other))
        (sequence,), (silent,) = asking.requests[0].sequences, other.requests[0].sequences
        assert sequence.logprobs == [{token_id: -float(token_id)} for token_id in sequence.output_token_ids]
        assert sequence.cumulative_logprob == -sum(sequence.output_token_ids)
        assert silent.logprobs == []
        await client.close()

    engine = EngineThread(new_engine())
    run(use())


def test_log_probabilities_of_prompts_come_before_the_first_token(monkeypatch):
    """In parts, and once for all sequences of a request."""
    monkeypatch.setattr(engine_outbox, "MAX_PROMPT_LOGPROBS", 2)

    class ScoringDevice(FallibleDevice):
        def prepare(self, kind):
            done = Future()
            done.set_result(None)
            return done

        def begin(self, plan):
            for sequence in filter(None, plan.sampling_sequences):
                if sequence.params.prompt_logprobs is not None:
                    sequence.request.prompt_logprobs = [None, {2: -2.0}, {3: -3.0}]
            return self.dispatch(plan)

        def choose(self, handle, masks):
            assert masks is None

    engine = EngineThread(new_engine(ScoringDevice))

    async def use() -> None:
        client = await connected(engine)
        queue, beside = new_queue(max_tokens=3, prompt_logprobs=0, n=2, seed=1), new_queue(max_tokens=3)
        client.submit(queue)
        client.submit(beside)
        assert await queue.take()
        assert queue.requests[0].prompt_logprobs == [None, {2: -2.0}, {3: -3.0}]
        await outputs_of(queue)
        await outputs_of(beside)
        assert beside.requests[0].prompt_logprobs is None
        await client.close()

    run(use())
    assert engine.join() == 0


def test_what_is_abandoned_gives_its_pages_back():
    async def use() -> None:
        client = await connected(engine)
        engine.engine.executor.step_s = 0.01
        queues = [new_queue([range(10 + i % 5)], max_tokens=50) for i in range(200)]
        for queue in queues:
            client.submit(queue)
        await queues[0].take()
        for queue in queues:
            client.abandon(queue)
            client.abandon(queue)
        await until(lambda: not engine.engine.has_work)
        await client.heartbeat()
        stats = client.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_used_pages) == (0, 0, 0)
        assert client.num_queued_requests == 0
        assert stats.num_generated_tokens < 200 * 50 / 2, "it went on for those who had left"
        await client.close()

    engine = EngineThread(new_engine(FallibleDevice))
    run(use())
    engine.join()
    engine.engine.check_integrity()


def test_what_runs_waits_no_longer():
    async def use() -> None:
        client = await connected(engine)
        engine.engine.executor.step_s = SLOW_STEP_S
        queue, other = new_queue(max_tokens=50), new_queue([range(9)], max_tokens=50)
        client.submit(queue)
        client.submit(other)
        assert (client.num_queued_requests, client.num_queued_tokens) == (2, 12)
        assert await queue.take()
        assert await other.take()
        assert (client.num_queued_requests, client.num_queued_tokens) == (0, 0)
        assert not queue.is_over
        await client.close()

    engine = EngineThread(new_engine(FallibleDevice))
    run(use())


def test_the_figures_of_an_engine_that_became_idle_come_unasked():
    async def use() -> None:
        client = await connected(engine)
        queue = new_queue(max_tokens=5)
        client.submit(queue)
        await outputs_of(queue)
        await until(lambda: client.stats().num_generated_tokens == 5)
        assert (client.stats().num_running, client.stats().num_used_pages) == (0, 0)
        await client.close()

    engine = EngineThread(new_engine())
    run(use())


def test_one_sequence_of_a_request_ends_and_the_other_goes_on():
    async def use() -> None:
        client = await connected(engine)
        queue = await begun(client, engine, n=2, seed=1)
        client._connection.send(Abort(submissions=[], keys=[0]))
        await client.heartbeat(SECONDS)  # its answer comes after the abort
        engine.engine.executor.step_s = 0.0
        await outputs_of(queue)
        first, second = queue.requests[0].sequences
        assert (first.finish_reason, second.finish_reason) == (FinishReason.ABORT, FinishReason.LENGTH)
        assert first.num_output_tokens < second.num_output_tokens == 50
        await client.close()

    engine = EngineThread(new_engine(FallibleDevice))
    run(use())
    engine.join()
    engine.engine.check_integrity()


def test_a_deadline_ends_what_runs_and_what_waits():
    async def use() -> None:
        client = await connected(engine)
        queues = [new_queue(max_tokens=50, timeout_s=1e-4) for _ in range(9)]
        for queue in queues:
            client.submit(queue)
        for queue in queues:
            assert (await outputs_of(queue))[-1].finish_reason is FinishReason.ABORT
        await client.close()

    engine = EngineThread(new_engine())
    run(use())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [("no such model", ModelNotFoundError, "there is no such"), ("a bug", EngineError, "KeyError: 'a bug'")],
)
def test_a_start_that_fails_is_the_callers_error(model, error, message):
    async def use() -> None:
        with pytest.raises(error, match=message) as caught:
            await connected(engine, model=model)
        assert type(caught.value) is error

    engine = EngineThread(new_engine())
    run(use())
    assert engine.join() == 1
