"""AsyncLLM: the tokens of LLM for the tasks of an event loop, which no step holds up, and no fault or cancel
harms."""

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import Awaitable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from jinfer import LLM, AsyncLLM, AsyncStream, EngineError, FinishReason, RequestError, StreamPiece
from jinfer.scheduling.step_plan import StepPlan
from tests.checkpoints import TINY_ENGINE, write_checkpoint
from tests.end_to_end.llm.helpers import GREEDY, MESSAGES, PROMPTS, RANDOM, TEXT, fail_once, ids_of, joined

SECONDS = 120  # nothing takes so long that does not hang
NUM_STREAMS = 100
STEP_S = 0.1  # of a slow device


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def inline(directory) -> Iterator[LLM]:
    with LLM(directory, **TINY_ENGINE) as llm:
        yield llm


@pytest.fixture(scope="module")
def shared(directory) -> Iterator[AsyncLLM]:
    llm = AsyncLLM(directory, **TINY_ENGINE)
    yield llm
    asyncio.run(llm.close())


@pytest.fixture
def llm(shared) -> Iterator[AsyncLLM]:
    """The AsyncLLM that the tests share, which each must leave idle and whole."""
    yield shared
    run(wait_until_idle(shared))


@pytest.fixture
def own(directory) -> Iterator[AsyncLLM]:
    """For a test that closes or breaks it."""
    llm = AsyncLLM(directory, **TINY_ENGINE)
    yield llm
    asyncio.run(llm.close())


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """In an event loop of its own, which fails if it hangs."""

    async def bounded() -> Any:
        return await asyncio.wait_for(coroutine, SECONDS)

    return asyncio.run(bounded())


async def wait_until_idle(llm: AsyncLLM) -> None:
    while (stats := llm.stats()).num_running or stats.num_waiting or stats.num_used_pages:
        await asyncio.sleep(0.001)
    await llm.check_integrity()


async def pieces_of(stream: AsyncStream) -> list[StreamPiece]:
    return [piece async for piece in stream]


def slow_device(monkeypatch: pytest.MonkeyPatch, llm: AsyncLLM) -> None:
    """Each step takes STEP_S, while which Python may go on in other threads, as it may with a real device."""
    dispatch = llm.parts.executor.dispatch

    def slow(plan: StepPlan) -> Any:
        time.sleep(STEP_S)
        return dispatch(plan)

    monkeypatch.setattr(llm.parts.executor, "dispatch", slow)


class HeldDevice:
    """Steps after the first `num_steps` wait for `release`. Python goes on in other threads meanwhile, as it
    may with a real device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, llm: AsyncLLM, *, num_steps: int = 0) -> None:
        self._go_on, self._is_held = threading.Event(), threading.Event()
        dispatch, numbers = llm.parts.executor.dispatch, itertools.count()

        def held(plan: StepPlan) -> Any:
            if next(numbers) >= num_steps:
                self._is_held.set()
                assert self._go_on.wait(SECONDS), "nobody released the device"
            return dispatch(plan)

        monkeypatch.setattr(llm.parts.executor, "dispatch", held)

    def release(self) -> None:
        self._go_on.set()

    async def wait_until_held(self) -> None:
        while not self._is_held.is_set():
            await asyncio.sleep(0.001)


class TestTokens:
    def test_generate_and_chat_give_what_llm_gives(self, llm, inline):
        assert ids_of(run(llm.generate(PROMPTS, n=2, **RANDOM))) == ids_of(
            inline.generate(PROMPTS, n=2, **RANDOM)
        )
        assert run(llm.generate(TEXT, **GREEDY))[0].text == inline.generate(TEXT, **GREEDY)[0].text
        assert run(llm.chat(MESSAGES, **GREEDY))[0].text == inline.chat(MESSAGES, **GREEDY)[0].text

    def test_a_hundred_streams_at_a_time_get_each_their_own(self, llm, inline):
        prompts = [[1 + i % 50, 2 + i, 3] for i in range(NUM_STREAMS)]
        options = [{**RANDOM, "seed": i, "max_tokens": 1 + i % 12} for i in range(NUM_STREAMS)]
        expected = [inline.generate([p], **o)[0] for p, o in zip(prompts, options, strict=True)]

        async def all_of_them() -> list[list[StreamPiece]]:
            streams = [pieces_of(llm.stream([p], **o)) for p, o in zip(prompts, options, strict=True)]
            return await asyncio.gather(*streams)

        found = [joined(pieces) for pieces in run(all_of_them())]
        assert found == [(output.text, output.outputs[0].token_ids) for output in expected]

    def test_a_stream_over_several_prompts_names_them(self, llm, inline):
        async def stream() -> list[StreamPiece]:
            return await pieces_of(llm.stream(PROMPTS, **RANDOM))

        pieces = run(stream())
        expected = [
            (output.text, output.outputs[0].token_ids) for output in inline.generate(PROMPTS, **RANDOM)
        ]
        assert [joined(pieces, index) for index in range(len(PROMPTS))] == expected

    def test_a_stream_of_a_conversation_is_what_chat_gives(self, llm, inline):
        async def stream() -> list[StreamPiece]:
            return await pieces_of(llm.chat_stream(MESSAGES, **RANDOM))

        (output,) = inline.chat(MESSAGES, **RANDOM)
        assert joined(run(stream())) == (output.text, output.outputs[0].token_ids)

    def test_stop_strings_and_log_probabilities(self, llm, inline):
        options = {"temperature": 0, "max_tokens": 12, "ignore_eos": True, "logprobs": 3, "stop": "e"}
        assert [out.outputs for out in run(llm.generate(PROMPTS, **options))] == [
            out.outputs for out in inline.generate(PROMPTS, **options)
        ]

    def test_what_cannot_run_is_refused_at_once(self, llm):
        async def refused() -> None:
            with pytest.raises(RequestError, match="temprature"):
                await llm.generate(TEXT, temprature=1)
            with pytest.raises(RequestError, match="it can never run"):
                llm.stream([[5] * 1000])
            for timeout_s in (0, -1.0, float("nan"), True, "1"):
                with pytest.raises(RequestError, match="timeout_s"):
                    await llm.generate(TEXT, timeout_s=timeout_s)

        run(refused())

    def test_a_grammar_that_cannot_be_kept_is_refused_and_in_a_stream_the_end(self, llm):
        pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")
        wrong = {"structured_outputs": {"grammar": "start: nothing"}}
        with pytest.raises(RequestError, match="the grammar cannot be kept"):
            run(llm.generate(TEXT, **wrong))

        async def use() -> list[StreamPiece]:
            return [piece async for piece in llm.stream(TEXT, **wrong)]

        (last,) = run(use())
        assert last.finish_reason is FinishReason.ERROR
        assert "the grammar cannot be kept" in last.error


class TestEnds:
    @pytest.mark.parametrize("use", ["generate", "stream"])
    def test_a_cancelled_task_gives_its_pages_back(self, llm, monkeypatch, use):
        device = HeldDevice(monkeypatch, llm, num_steps=1)

        async def cancelled() -> None:
            stream = llm.stream(PROMPTS, **GREEDY)
            task = asyncio.create_task(
                pieces_of(stream) if use == "stream" else llm.generate(PROMPTS, **GREEDY)
            )
            await asyncio.sleep(0)  # a task that is cancelled before it began would close nothing
            if use == "generate":
                await stream.aclose()
            await device.wait_until_held()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            device.release()
            await wait_until_idle(llm)
            assert await pieces_of(stream) == []

        generated = llm.stats().num_generated_tokens
        run(cancelled())
        assert llm.stats().num_used_pages == 0
        assert llm.stats().num_generated_tokens - generated < len(PROMPTS) * 2, "it did not run to its end"

    def test_a_stream_that_is_closed_or_dropped_leaves_the_engine(self, llm):
        async def left() -> None:
            closed, dropped, kept = (llm.stream(TEXT, **RANDOM) for _ in range(3))
            await anext(closed)
            await anext(dropped)
            await closed.aclose()
            assert await pieces_of(closed) == []
            del dropped
            gc.collect()
            assert (
                joined(await pieces_of(kept))[1]
                == (await llm.generate(TEXT, **RANDOM))[0].outputs[0].token_ids
            )
            await wait_until_idle(llm)

        run(left())

    def test_a_stream_that_another_task_waits_for_can_be_closed(self, llm, monkeypatch):
        device = HeldDevice(monkeypatch, llm)

        async def closed() -> None:
            stream = llm.stream(TEXT, **GREEDY)
            waiting = asyncio.create_task(pieces_of(stream))
            await asyncio.sleep(0)
            await stream.aclose()
            with pytest.raises(EngineError, match="stream was closed"):
                await waiting
            device.release()

        run(closed())

    def test_abort_ends_one_request_and_no_other(self, llm, inline, monkeypatch):
        device = HeldDevice(monkeypatch, llm, num_steps=3)  # two of which may be in flight

        async def aborted() -> list[StreamPiece]:
            stream = llm.stream([[1, 2, 3], [7, 8, 9]], **GREEDY)
            await anext(stream)
            llm.abort(stream.request_ids[0])
            llm.abort("no such request")
            device.release()
            return await pieces_of(stream)

        pieces = run(aborted())
        (first,) = [
            piece.finish_reason for piece in pieces if piece.prompt_index == 0 and piece.finish_reason
        ]
        assert first is FinishReason.ABORT
        expected = inline.generate([[7, 8, 9]], **GREEDY)[0].outputs[0].token_ids
        rest = joined(pieces, 1)[1]
        assert rest == expected[len(expected) - len(rest) :]
        assert len(rest) >= len(expected) - 1

    def test_a_deadline_ends_what_runs_and_what_waits(self, llm, inline, monkeypatch):
        slow_device(monkeypatch, llm)
        whole = ids_of(inline.generate(PROMPTS, **GREEDY))

        async def late() -> None:
            outputs = await llm.generate(PROMPTS, timeout_s=2.5 * STEP_S, **GREEDY)
            for output, (expected,) in zip(outputs, whole, strict=True):
                (completion,) = output.outputs
                assert output.finished
                assert completion.finish_reason is FinishReason.ABORT
                assert completion.token_ids == expected[: len(completion.token_ids)]
            assert not outputs[-1].outputs[0].token_ids, "it waited for a row"
            await wait_until_idle(llm)

        run(late())

    def test_a_deadline_that_is_met_changes_nothing(self, llm, inline):
        assert ids_of(run(llm.generate(PROMPTS, timeout_s=SECONDS, **GREEDY))) == ids_of(
            inline.generate(PROMPTS, **GREEDY)
        )


class TestEventLoop:
    def test_it_goes_on_while_the_engine_steps(self, llm, monkeypatch):
        """It takes a hundred turns in the middle of a step, which waits for them."""
        device = HeldDevice(monkeypatch, llm)

        async def take_turns() -> None:
            task = asyncio.create_task(llm.generate([[1, 2, 3]], **GREEDY | {"max_tokens": 3}))
            await device.wait_until_held()
            for _ in range(100):
                await asyncio.sleep(0)
            assert not task.done()
            device.release()
            assert len(await task) == 1

        run(take_turns())

    def test_one_that_closes_in_the_middle_leaves_an_engine_that_works(self, llm, inline, caplog):
        event_loop = asyncio.new_event_loop()
        opened = []

        async def begin() -> None:
            opened.append(llm.stream(TEXT, **RANDOM | {"max_tokens": 30}))
            await anext(opened[0])

        event_loop.run_until_complete(begin())
        event_loop.close()
        run(wait_until_idle(llm))  # it runs to its end, for nobody
        assert not caplog.records, "nobody to wake is no fault"
        expected = ids_of(inline.generate(TEXT, **RANDOM))
        assert ids_of(run(llm.generate(TEXT, **RANDOM))) == expected
        opened.clear()

    def test_one_that_ends_with_tasks_that_run_does_not_hang(self, llm):
        async def leave() -> None:
            tasks = [asyncio.create_task(llm.generate(PROMPTS, **GREEDY)) for _ in range(3)]
            await asyncio.sleep(0.01)
            assert len(tasks) == 3

        run(leave())


class TestFaults:
    def test_every_waiting_stream_gets_the_fault_and_the_next_request_runs(self, llm, inline, monkeypatch):
        all_are_in = threading.Event()
        fail_once(monkeypatch, llm.parts, RuntimeError("the device fell over"), begin=all_are_in)

        async def all_fail() -> None:
            calls: list[Coroutine[Any, Any, Any]] = [pieces_of(llm.stream(TEXT, **GREEDY)) for _ in range(3)]
            tasks = [asyncio.create_task(call) for call in [*calls, llm.generate(PROMPTS, **GREEDY)]]
            await asyncio.sleep(0)  # each runs to where it waits
            all_are_in.set()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, EngineError)
                assert "the device fell over" in str(result)
            assert ids_of(await llm.generate(PROMPTS, **GREEDY)) == ids_of(inline.generate(PROMPTS, **GREEDY))

        run(all_fail())

    def test_an_engine_that_cannot_begin_anew_refuses_and_does_not_hang(self, own, monkeypatch):
        async def refused() -> None:
            for reason in ("division by zero", "nor could it begin anew", "nor could it begin anew"):
                with pytest.raises(EngineError, match=reason):
                    await own.generate(TEXT, **GREEDY)

        with monkeypatch.context() as patch:
            patch.setattr(own.parts.executor, "dispatch", lambda _: 1 / 0)
            patch.setattr(own.parts.executor, "reset", lambda: 1 / 0)
            run(refused())
        assert len(run(own.generate(TEXT, **GREEDY))) == 1

    def test_close_fails_what_runs_and_what_comes(self, own, monkeypatch):
        device = HeldDevice(monkeypatch, own, num_steps=1)

        async def closed() -> None:
            calls: list[Awaitable[Any]] = [
                pieces_of(own.stream(TEXT, **GREEDY)),
                own.generate(PROMPTS, **GREEDY),
            ]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await device.wait_until_held()
            closing = asyncio.create_task(own.close())
            while not own._loop.is_closed:
                await asyncio.sleep(0.001)
            device.release()
            await closing
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, EngineError)
                assert "closed" in str(result)
            with pytest.raises(EngineError, match="closed"):
                await own.generate(TEXT)

        run(closed())

    def test_one_that_is_dropped_ends_its_thread_and_gives_its_memory_back(self, directory):
        before = set(threading.enumerate())
        llm = AsyncLLM(directory, **TINY_ENGINE)
        run(llm.generate(TEXT, **GREEDY))
        (thread,) = (each for each in set(threading.enumerate()) - before if each.name == "jinfer-engine")
        layer = llm.parts.executor.state.kv_cache[0].array
        del llm
        gc.collect()
        thread.join(SECONDS)
        assert not thread.is_alive()
        assert layer.is_deleted()
