"""Who the scheduler admits, who is preempted, and what an end or an abort gives back."""

import pytest

from jinfer.requests.request import FinishReason
from tests.scheduling.fake_device import FakeEngine, rows_of
from tests.scheduling.limits import limits, summary


def test_pages_are_given_as_they_are_needed():
    engine = FakeEngine(limits())
    engine.add(6, 8)
    rows = [row for _ in range(4) for row in rows_of(engine.step(), page_size=4)]
    new_pages = [(row.first_new_page, len(row.new_page_ids)) for row in rows]
    assert new_pages == [(0, 2), (2, 0), (2, 0), (2, 1)]


def test_rows_and_tokens_bound_who_is_admitted():
    engine = FakeEngine(limits(max_num_seqs=2))
    for _ in range(4):
        engine.add(3, 3)
    assert summary(engine.step()) == [(0, 0, 3), (1, 0, 3)]
    assert (engine.scheduler.num_running, engine.scheduler.num_waiting) == (2, 2)
    engine.drain()


def test_nobody_overtakes_a_sequence_that_waits_for_pages():
    """The second needs three pages and two are free; the third would need one."""
    engine = FakeEngine(limits(num_pages=1 + 8, page_size=4, max_num_batched_tokens=32))
    engine.add(21, 4)
    engine.add(12, 4)
    engine.add(2, 2)
    assert summary(engine.step()) == [(0, 0, 21)]
    assert summary(engine.step()) == [(0, 21, 1)]
    engine.drain()


def test_the_newest_is_preempted_and_waits_first_in_line():
    """Six positions: after two steps both hold three, and the oldest needs a fourth."""
    engine = FakeEngine(limits(page_size=1, num_pages=1 + 6, max_model_len=6, max_num_seqs=2))
    oldest, newest = engine.add(2, 4), engine.add(2, 3)
    engine.add(1, 1)
    assert summary(engine.step()) == [(0, 0, 2), (1, 0, 2)]
    assert summary(engine.step()) == [(0, 2, 1), (1, 2, 1)]
    assert summary(engine.step()) == [(0, 3, 1)]
    assert engine.counters.num_preemptions == 1
    assert oldest.row is not None
    assert newest.row is None
    assert newest.page_ids == []
    engine.drain()
    assert (oldest.num_output_tokens, newest.num_output_tokens) == (4, 3)


@pytest.mark.parametrize("prefix_caching", [False, True])
def test_a_preempted_sequence_waits_until_its_pending_token_is_read(prefix_caching):
    sizes = limits(page_size=1, num_pages=1 + 6, max_model_len=6, max_num_seqs=2)
    engine = FakeEngine(sizes, prefix_caching=prefix_caching)
    oldest, newest = engine.add(2, 4), engine.add(2, 3)
    engine.step()
    engine.step()
    engine.scheduler.schedule()  # preempts the newest; the step before, which samples for it, is not read yet
    assert newest.row is None
    assert newest.num_pending_tokens == 1
    engine.scheduler.remove(oldest)
    assert engine.scheduler.schedule() is None, "admitted without the token that it goes on from"
    newest.token_ids.append(0)
    newest.num_pending_tokens = 0
    num_cached = 2 if prefix_caching else 0  # three were computed, and the oldest took the page of the last
    assert summary(engine.scheduler.schedule()) == [(1, num_cached, 4 - num_cached)]


def test_a_sequence_short_of_pages_keeps_its_own_while_older_ones_need_none():
    """Seven positions: the newest wants an eighth when the oldest has all that it needs."""
    engine = FakeEngine(limits(page_size=1, num_pages=1 + 7, max_model_len=7, max_num_seqs=2))
    engine.add(3, 2)
    newest = engine.add(2, 5)
    plans = [summary(engine.step()) for _ in range(3)]
    assert plans == [[(0, 0, 3), (1, 0, 2)], [(0, 3, 1), (1, 2, 1)], None]
    assert len(newest.page_ids) == 3
    assert summary(engine.step()) == [(1, 3, 1)]
    engine.drain()
    assert engine.counters.num_preemptions == 0


@pytest.mark.parametrize("when", [0, 1, 2, 3])
def test_an_aborted_sequence_gives_back_all_at_once(when):
    engine = FakeEngine(limits())
    kept, aborted = engine.add(5, 4), engine.add(7, 4)
    for _ in range(when):
        engine.step()
    engine.abort(aborted)
    assert aborted.page_ids == []
    assert aborted.row is None
    assert engine.scheduler.page_pool.num_used == len(kept.page_ids)
    engine.drain()
    assert kept.finish_reason is FinishReason.LENGTH


def test_removing_a_sequence_that_is_gone_changes_nothing():
    engine = FakeEngine(limits())
    sequence = engine.add(2, 1)
    engine.drain()
    engine.scheduler.remove(sequence)
    engine.scheduler.check_integrity()


def test_an_idle_scheduler_plans_nothing():
    assert FakeEngine(limits()).step() is None
