"""The seam of the server over an engine in the same process."""

from collections.abc import Iterator

import pytest

from jinfer import EngineError
from jinfer.engine.loop import EngineLoop
from jinfer.server.local_engine import LocalEngine
from tests.server.fakes import (
    INFO,
    SECONDS,
    expected_tokens,
    new_engine,
    new_factory,
    new_queue,
    outputs_of,
    run,
)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    inner = new_engine()
    loop = EngineLoop(inner, lambda: None)
    loop.start()
    yield LocalEngine(loop, inner, INFO, new_factory().rules)
    loop.close()


def test_a_request_gets_its_tokens_and_the_engine_answers(engine):
    async def use() -> None:
        queue = new_queue(max_tokens=9)
        engine.submit(queue)
        outputs = await outputs_of(queue)
        (sequence,) = queue.requests[0].sequences
        assert [output.token_id for output in outputs] == expected_tokens(sequence, 9)
        assert 0 <= await engine.heartbeat() < SECONDS

    run(use())
    assert engine.stats().num_generated_tokens == 9


def test_a_closed_engine_refuses_and_does_not_answer(engine):
    async def use() -> None:
        engine._loop.close()
        with pytest.raises(EngineError, match="closed"):
            engine.submit(new_queue(max_tokens=1))
        with pytest.raises(EngineError, match="closed"):
            await engine.heartbeat()

    run(use())
