"""The engine by itself: when a step is read, and what it says of itself."""

import dataclasses
import math
from collections.abc import Iterator

import pytest

from jinfer import LLM, EngineError, SamplingParams
from jinfer.engine.engine import Engine
from jinfer.engine.steps import SHORT_WAIT_S
from jinfer.requests.prompts import Prompt
from jinfer.requests.request import Request
from tests.checkpoints import TINY_ENGINE, write_checkpoint
from tests.tiny_model import shared_llm

PROMPT = (3, 1, 4, 1, 5)
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)


@pytest.fixture(params=[0, 1, 2], ids=["no overlap", "one in flight", "two in flight"])
def num_unread(request) -> int:
    return request.param


@pytest.fixture
def llm(num_unread, monkeypatch) -> Iterator[LLM]:
    """Left idle by every test."""
    llm = shared_llm(overlap=num_unread > 0)
    if num_unread:  # as if the host had waited for long, or not at all
        monkeypatch.setattr(llm.engine.in_flight, "depth", lambda last_wait_s: num_unread)
    yield llm
    assert not llm.engine.has_work
    llm.check_integrity()


def add(llm: LLM, *prompts: tuple[int, ...], params: SamplingParams = GREEDY) -> list[Request]:
    requests = llm.parts.requests.create_all(
        [Prompt(token_ids=prompt) for prompt in prompts], [params] * len(prompts)
    )
    for request in requests:
        llm.engine.add(request)
    return requests


def tokens_by_step(engine: Engine) -> list[list[int | None]]:
    steps = []
    while engine.has_work:
        steps.append([update.token_id for update in engine.step()])
    return steps


def test_a_step_is_read_after_the_next_is_dispatched_unless_overlap_is_off(llm, num_unread):
    (expected,) = llm.generate([PROMPT], GREEDY)[0].outputs
    add(llm, PROMPT)
    steps = tokens_by_step(llm.engine)
    assert steps == [[]] * num_unread + [[token_id] for token_id in expected.token_ids]


def test_a_second_step_stays_in_flight_where_the_host_hardly_waits():
    depth = shared_llm(overlap=True).engine.in_flight.depth
    for wait_s, num_unread in ((0.0, 2), (SHORT_WAIT_S, 1), (0.005, 1)):
        assert depth(wait_s) == num_unread
    assert shared_llm(overlap=False).engine.in_flight.depth(0.0) == 0


def test_the_engine_tells_its_queue_how_long_the_host_waited(monkeypatch):
    engine = shared_llm(overlap=True).engine
    read = engine.executor.read
    monkeypatch.setattr(engine.in_flight, "last_wait_s", math.inf)
    monkeypatch.setattr(engine.executor, "read", lambda *step: dataclasses.replace(read(*step), wait_s=0.0))
    add(shared_llm(overlap=True), PROMPT)
    depths = []
    while engine.has_work:
        engine.step()
        depths.append(len(engine.in_flight))
    assert depths == [1, 1, 2, 2, 1, 0], "a second step stays from the first read on"


def test_stats_tell_what_is_now_and_count_what_was(llm, num_unread):
    engine, before = llm.engine, llm.engine.stats()
    add(llm, PROMPT)
    waiting = engine.stats()
    engine.step()
    engine.step()
    running = engine.stats()
    tokens_by_step(engine)
    after = engine.stats()

    assert (before.num_running, before.num_waiting, before.num_used_pages) == (0, 0, 0)
    assert (waiting.num_running, waiting.num_waiting) == (0, 1)
    assert (running.num_running, running.num_waiting, running.num_used_pages) == (1, 0, 1)
    assert running.num_generated_tokens - before.num_generated_tokens == 2 - num_unread
    assert after.num_prompt_tokens - before.num_prompt_tokens == len(PROMPT)
    assert after.num_generated_tokens - before.num_generated_tokens == 4
    for stats in (before, waiting, running, after):
        pages = stats.num_used_pages + stats.num_cached_pages + stats.num_free_pages
        assert pages == llm.limits.num_pages - 1


def test_counters_go_on_after_a_fault(llm, monkeypatch):
    llm.generate([PROMPT], GREEDY)
    before = llm.engine.stats()

    def fail(*_):
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.executor, "dispatch", fail)
        with pytest.raises(EngineError, match="the device is gone"):
            llm.generate([PROMPT], GREEDY)
    llm.generate([PROMPT], GREEDY)
    assert llm.engine.stats().num_prompt_tokens == before.num_prompt_tokens + 2 * len(PROMPT)
    assert llm.engine.stats().num_generated_tokens == before.num_generated_tokens + 4


def test_text_is_made_only_for_who_takes_it_or_where_a_stop_string_may_end_it(tmp_path):
    bounds = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    with LLM(write_checkpoint(tmp_path), **TINY_ENGINE) as llm:
        plain, stopping = llm.parts.requests.create_all(
            [Prompt(text="the cat")] * 2,
            [SamplingParams(**bounds), SamplingParams(**bounds, stop="no such text")],
        )
        for request in (plain, stopping):
            llm.engine.add(request)
        tokens_by_step(llm.engine)
        assert [request.sequences[0].detokenizer.num_tokens for request in (plain, stopping)] == [0, 6]
        assert llm.generate("the cat", **bounds)[0].text == stopping.sequences[0].detokenizer.text
