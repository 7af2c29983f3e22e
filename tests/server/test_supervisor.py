"""What the supervisor does about engines that die; these have no jax, and run in threads of the test."""

import asyncio

import pytest

from jinfer import EngineError, ModelNotFoundError, OverloadedError
from jinfer.server.engine_client import EngineClient
from jinfer.server.supervisor import RestartPolicy, Supervisor
from jinfer.server.wire import EngineSpec
from tests.server.fakes import (
    LIMITS,
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

AT_ONCE = RestartPolicy(max_restarts=2, first_delay_s=0.0)


class Engines:
    """Starts engines, and remembers them. Those whose turn is in `bad` do not start."""

    def __init__(self, *, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad
        self.specs: list[EngineSpec] = []
        self.threads: list[EngineThread] = []
        self.clients: list[EngineClient] = []

    async def start(self, spec: EngineSpec) -> EngineClient:
        self.specs.append(spec)
        thread = EngineThread(new_engine(FallibleDevice))
        self.threads.append(thread)
        is_bad = len(self.specs) - 1 in self.bad
        client = await connected(thread, model="no such model" if is_bad else None)
        self.clients.append(client)
        return client

    async def supervised(self, policy: RestartPolicy | None, **options: int) -> Supervisor:
        """A supervisor of the first one, which has started."""
        spec = EngineSpec(options=options)
        return await Supervisor.start(spec, policy=policy, start_client=self.start)

    def kill(self) -> None:
        """The newest one's connection breaks, as at the death of its process."""
        self.clients[-1]._connection.abort()

    def join(self) -> None:
        for thread in self.threads:
            thread.join()


def is_open(supervisor: Supervisor) -> bool:
    try:
        supervisor.check_open()
    except EngineError:
        return False
    return True


async def completes(supervisor: Supervisor) -> bool:
    queue = new_queue(max_tokens=5)
    supervisor.submit(queue)
    outputs = await outputs_of(queue)
    return [output.token_id for output in outputs] == expected_tokens(queue.requests[0].sequences[0], 5)


def test_without_a_policy_a_death_is_the_end():
    async def use() -> None:
        supervisor = await engines.supervised(None)
        assert await completes(supervisor)
        engines.kill()
        assert "gone" in await supervisor.wait_failed()
        with pytest.raises(EngineError, match="gone"):
            supervisor.submit(new_queue())
        with pytest.raises(EngineError, match="gone"):
            await supervisor.heartbeat()
        await supervisor.close()

    engines = Engines()
    run(use())
    engines.join()
    assert len(engines.specs) == 1


def test_an_engine_that_dies_is_followed_by_another_of_the_same_sizes():
    async def use() -> None:
        supervisor = await engines.supervised(AT_ONCE, page_size=4)
        queue = await begun(supervisor, engines.threads[0])
        engines.kill()
        with pytest.raises(EngineError, match="gone"):
            await outputs_of(queue)
        await until(lambda: len(engines.clients) == 2 and is_open(supervisor))
        supervisor.abandon(queue)
        assert await completes(supervisor)
        assert supervisor.num_restarts == 1
        await supervisor.close()
        with pytest.raises(EngineError, match="shutting down"):
            supervisor.check_open()

    engines = Engines()
    run(use())
    engines.join()
    sizes = {"num_pages": LIMITS.num_pages, "max_model_len": LIMITS.max_model_len}
    assert [spec.options for spec in engines.specs] == [{"page_size": 4}, {"page_size": 4, **sizes}]


def test_while_another_starts_requests_are_refused_for_a_while():
    async def use() -> None:
        policy = RestartPolicy(first_delay_s=100.0, max_delay_s=40.0)
        supervisor = await engines.supervised(policy)
        engines.kill()
        await until(lambda: not is_open(supervisor) and supervisor.num_restarts == 1)
        with pytest.raises(OverloadedError, match="started again") as caught:
            supervisor.submit(new_queue())
        assert 20 < caught.value.retry_after_s < 75  # about 40, or as much less as the test has taken
        await supervisor.close()

    engines = Engines()
    run(use())
    engines.join()
    assert len(engines.specs) == 1


def test_too_many_deaths_are_the_end():
    async def use() -> None:
        supervisor = await engines.supervised(AT_ONCE)
        for num_restarts in (1, 2):
            engines.kill()
            await until(lambda n=num_restarts: len(engines.clients) == n + 1 and is_open(supervisor))
        engines.kill()
        assert "gone" in await supervisor.wait_failed()
        await supervisor.close()

    engines = Engines()
    run(use())
    engines.join()
    assert len(engines.specs) == 3


def test_a_restart_that_fails_is_tried_again_and_counts():
    async def use() -> None:
        supervisor = await engines.supervised(AT_ONCE)
        engines.kill()
        if engines.bad == (1,):
            await until(lambda: len(engines.clients) == 2 and is_open(supervisor))
            assert await completes(supervisor)
        else:
            assert "there is no such model" in await supervisor.wait_failed()
        await supervisor.close()

    for bad in ((1,), (1, 2)):
        engines = Engines(bad=bad)
        run(use())
        engines.join()
        assert len(engines.specs) == 3


def test_the_first_start_is_not_repeated():
    async def use() -> None:
        with pytest.raises(ModelNotFoundError):
            await engines.supervised(AT_ONCE)
        await asyncio.sleep(0)

    engines = Engines(bad=(0,))
    run(use())
    assert len(engines.specs) == 1
