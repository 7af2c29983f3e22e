"""The seam of the server over an engine in the same process."""

import asyncio
from collections.abc import Iterator

import pytest

from jinfer import EngineError, SamplingParams
from jinfer.async_queue import AsyncOutputQueue, Waker
from jinfer.engine.loop import EngineLoop
from jinfer.requests.prompts import Prompt
from jinfer.server.local_engine import LocalEngine
from tests.server.fakes import INFO, expected_tokens, new_engine, new_factory

PROMPT = Prompt(token_ids=(1, 2, 3))


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    inner = new_engine()
    loop = EngineLoop(inner, lambda: None)
    loop.start()
    yield LocalEngine(loop, inner, INFO)
    loop.close()


def new_queue(num_tokens: int) -> AsyncOutputQueue:
    params = SamplingParams(max_tokens=num_tokens)
    requests = new_factory().create_all([PROMPT], [params])
    return AsyncOutputQueue(requests, Waker(asyncio.get_running_loop()), deadline=None)


def test_a_request_gets_its_tokens_and_the_engine_answers(engine):
    async def run() -> None:
        queue = new_queue(9)
        engine.submit(queue)
        outputs = []
        while several := await queue.take():
            outputs += several
        (sequence,) = queue.requests[0].sequences
        assert [output.token_id for output in outputs] == expected_tokens(sequence, 9)
        assert 0 <= await engine.heartbeat() < 5

    asyncio.run(run())
    assert engine.stats().num_generated_tokens == 9


def test_a_closed_engine_refuses_and_does_not_answer(engine):
    async def run() -> None:
        engine._loop.close()
        with pytest.raises(EngineError, match="closed"):
            engine.submit(new_queue(1))
        with pytest.raises(EngineError, match="closed"):
            await engine.heartbeat()

    asyncio.run(run())
