"""When requests are sent, and what is recorded of each, on a clock that nobody waits for."""

import asyncio
import json

import pytest

from jinfer.bench.serve.answers import Answer, AnswerError
from jinfer.bench.serve.conversations import Conversation, Conversations
from jinfer.bench.serve.load import Load, LoadPart, LoadPlan
from tests.bench.serve.mock_server import run_virtually

ANSWER_S = 2.0
WHOLE = LoadPart()


async def answering(body: bytes, answer: Answer) -> None:
    """Two chunks, after a second each."""
    for text in ("x", "y"):
        await asyncio.sleep(ANSWER_S / 2)
        now = asyncio.get_running_loop().time()
        answer.add(json.dumps({"choices": [{"text": text}]}).encode(), now)
    answer.add(b"[DONE]", now)


def make_body(conversation: Conversation, history) -> bytes:
    return json.dumps([conversation.turns[len(history)], [list(said) for said in history]]).encode()


def load_of(
    plan: LoadPlan, *, ask=answering, turns=("a",), times_s=None, part=WHOLE, stop_s: float | None = None
) -> Load:
    """The load after it has run, or was cancelled after `stop_s`."""
    conversations = Conversations(lambda number: Conversation(turns, 2), times_s=times_s)
    load = Load(conversations, plan, make_body, ask, part)

    async def run():
        task = asyncio.create_task(load.run(asyncio.get_running_loop().time()))
        if stop_s is not None:
            await asyncio.sleep(stop_s)
            task.cancel()
        await asyncio.gather(task, return_exceptions=stop_s is not None)

    run_virtually(run())
    load.records.sort(key=lambda record: (record.conversation, record.turn))
    return load


def sent(load: Load) -> list[float]:
    return [record.sent_s for record in load.records]


def test_an_open_loop_does_not_wait_for_answers():
    load = load_of(LoadPlan(rate_per_s=5.0, num_conversations=20, seed=3))
    assert sent(load) == pytest.approx([record.planned_s for record in load.records])
    assert sent(load)[0] == 0
    assert max(sent(load)) < 20 * ANSWER_S / 2
    assert (load.tally.num_sent, load.tally.num_ok, load.tally.num_failed) == (20, 20, 0)
    assert all(
        record.ttft_s == pytest.approx(1) and record.e2e_s == pytest.approx(2) for record in load.records
    )


def test_random_times_depend_on_the_seed_alone():
    plans = [LoadPlan(rate_per_s=5.0, num_conversations=20, seed=seed) for seed in (3, 3, 4)]
    first, again, other = [sent(load_of(plan)) for plan in plans]
    assert first == again
    assert first != other
    parts = [load_of(plans[0], part=LoadPart(index, 3)) for index in range(3)]
    assert sorted(time_s for part in parts for time_s in sent(part)) == pytest.approx(first)


def test_an_open_loop_ends_with_its_duration():
    load = load_of(LoadPlan(rate_per_s=5.0, duration_s=4.0))
    assert 3 < max(sent(load)) < 4
    assert 10 < len(load.records) < 35


def test_a_trace_comes_at_its_times():
    load = load_of(LoadPlan(num_conversations=2), times_s=(0.0, 0.5, 7.0))
    assert sent(load) == pytest.approx([0, 0.5])


def test_a_closed_loop_sends_when_an_answer_has_ended():
    load = load_of(LoadPlan(concurrency=2, num_conversations=5))
    assert sent(load) == pytest.approx([0, 0, 2, 2, 4])
    assert {record.lateness_s for record in load.records} == {0}


def test_a_closed_loop_ends_with_its_duration():
    assert sent(load_of(LoadPlan(concurrency=1, duration_s=4.5))) == pytest.approx([0, 2, 4])


def test_processes_divide_what_runs_at_a_time():
    parts = [load_of(LoadPlan(concurrency=3, num_conversations=7), part=LoadPart(i, 2)) for i in range(2)]
    assert [[record.conversation for record in part.records] for part in parts] == [[0, 2, 4, 6], [1, 3, 5]]
    assert [sent(part) for part in parts] == [pytest.approx([0, 0, 2, 2]), pytest.approx([0, 2, 4])]


def test_a_generator_that_is_held_up_says_how_late_it_was():
    async def blocking(body: bytes, answer: Answer) -> None:
        asyncio.get_running_loop().advance(0.3)  # as if the process had computed
        await answering(body, answer)

    load = load_of(LoadPlan(), ask=blocking, times_s=(0.0, 0.1, 5.0))
    assert [record.lateness_s for record in load.records] == pytest.approx([0, 0.2, 0])


def test_a_turn_sends_the_answers_before_it_after_thinking():
    bodies = []

    async def ask(body: bytes, answer: Answer) -> None:
        bodies.append(json.loads(body))
        await answering(body, answer)

    load = load_of(
        LoadPlan(rate_per_s=1.0, num_conversations=1, think_time_s=10.0), ask=ask, turns=("a", "b", "c")
    )
    assert bodies == [["a", []], ["b", [["a", "xy"]]], ["c", [["a", "xy"], ["b", "xy"]]]]
    assert sent(load) == pytest.approx([0, 12, 24])
    assert [record.turn for record in load.records] == [0, 1, 2]


def test_what_cannot_be_sent_after_a_failure_is_counted_too():
    async def failing(body: bytes, answer: Answer) -> None:
        await answering(body, answer)
        if json.loads(body)[0] == "b":
            raise AnswerError("http 500", "oops")

    load = load_of(LoadPlan(concurrency=1, num_conversations=2), ask=failing, turns=("a", "b", "c"))
    assert [record.failure for record in load.records] == [None, "http 500", "not sent"] * 2
    assert load.records[1].message == "oops"
    assert len(load.records[1].chunk_times_s) == 2, "what came is kept"
    assert load.records[2].sent_s is None


def test_a_load_that_is_ended_keeps_what_it_has():
    load = load_of(LoadPlan(concurrency=2, num_conversations=9), turns=("a", "b"), stop_s=3.5)
    assert [record.failure for record in load.records] == [None, "interrupted"] * 2
    assert [len(record.chunk_times_s) for record in load.records] == [2, 1] * 2
    thinking = load_of(
        LoadPlan(concurrency=1, think_time_s=9.0, num_conversations=9), turns=("a", "b"), stop_s=3
    )
    assert [record.failure for record in thinking.records] == [None, "not sent"]
