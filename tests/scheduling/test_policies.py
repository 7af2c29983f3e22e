"""The scheduler's policies one by one, and priorities."""

from tests.scheduling.fake_device import FakeEngine
from tests.scheduling.limits import limits, summary


def test_a_long_prompt_is_computed_in_chunks_beside_decode_rows():
    engine = FakeEngine(limits(max_num_batched_tokens=4))
    engine.add(2, 8)
    engine.add(9, 2)
    assert [summary(engine.step()) for _ in range(5)] == [
        [(0, 0, 2), (1, 0, 2)],
        [(0, 2, 1), (1, 2, 3)],
        [(0, 3, 1), (1, 5, 3)],
        [(0, 4, 1), (1, 8, 1)],
        [(1, 9, 1), (0, 5, 1)],
    ]
    engine.drain()


def test_prefill_first_decodes_when_no_prompt_can_be_computed():
    engine = FakeEngine(limits(max_num_batched_tokens=4), "prefill_first")
    engine.add(2, 3)
    engine.add(5, 2)
    assert [summary(engine.step()) for _ in range(4)] == [
        [(0, 0, 2), (1, 0, 2)],
        [(1, 2, 3)],
        [(1, 5, 1), (0, 2, 1)],
        [(0, 3, 1)],
    ]
    engine.drain()


def test_prefill_first_stops_at_the_last_row():
    engine = FakeEngine(limits(max_num_seqs=2), "prefill_first")
    for _ in range(3):
        engine.add(8, 3)
    assert [summary(engine.step()) for _ in range(5)] == [
        [(0, 0, 8)],
        [(1, 0, 8)],
        [(0, 8, 1), (1, 8, 1)],
        [(0, 9, 1), (1, 9, 1)],
        None,  # the last tokens are still to be read
    ]
    assert summary(engine.step()) == [(2, 0, 8)]
    engine.drain()


def test_decode_first_takes_prompts_in_every_eighth_step_and_while_nobody_decodes():
    engine = FakeEngine(limits(max_num_batched_tokens=4), "decode_first")
    engine.add(6, 24)
    steps = [engine.step(), engine.step()]
    engine.add(5, 2)
    steps += [engine.step() for _ in range(17)]
    with_prompts = [i for i, step in enumerate(steps) if step and step.chunks]
    assert with_prompts == [0, 1, 9, 17]
    assert summary(steps[9]) == [(0, 13, 1), (1, 0, 3)]
    assert summary(steps[10]) == [(0, 14, 1)]
    assert summary(steps[17]) == [(0, 21, 1), (1, 3, 2)]
    engine.drain()


def test_only_the_chunk_that_ends_the_prompt_samples():
    engine = FakeEngine(limits(max_num_batched_tokens=4))
    engine.add(9, 2)
    plans = [engine.step() for _ in range(3)]
    assert [plan.chunks[0].is_last_chunk for plan in plans if plan] == [False, False, True]


def test_waiting_sequences_begin_in_order_of_priority_and_then_of_arrival():
    engine = FakeEngine(limits(max_num_seqs=1))
    added = [engine.add(2, 2, priority=priority) for priority in (5, 5, 0, 5, -1)]
    begun: list[int] = []
    while engine.live:
        engine.step()
        begun += [s.arrival for s in added if s.has_begun and s.arrival not in begun]
    assert begun == [4, 2, 0, 1, 3]
    engine.drain()


def test_a_sequence_that_overtakes_takes_no_row_from_one_that_runs():
    engine = FakeEngine(limits(max_num_seqs=1))
    running = engine.add(2, 9, priority=1)
    engine.step()
    urgent = engine.add(2, 2, priority=0)
    engine.step()
    assert running.row is not None
    assert not urgent.has_begun
    engine.drain()
    assert engine.counters.num_preemptions == 0


def test_the_last_priority_is_preempted_and_not_the_last_arrival():
    """Five pages, of which three sequences need nine."""
    engine = FakeEngine(limits(num_pages=6), prefix_caching=False)
    lost: list[int] = []
    added = [engine.add(3, 10, priority=priority) for priority in (1, 0, 0)]
    while engine.live:
        before = [sequence.row for sequence in added]
        engine.step()
        lost += [
            sequence.arrival
            for sequence, row in zip(added, before, strict=True)
            if row is not None and sequence.row is None and not sequence.is_finished
        ]
    assert lost == [0]


def test_a_prompt_that_overtakes_takes_no_page_from_a_row_of_the_same_step():
    """It waits until that row is at the end of its page, and then goes first."""
    engine = FakeEngine(limits(num_pages=8, max_num_batched_tokens=4), prefix_caching=False)
    late = engine.add(3, 24, priority=1)
    for _ in range(6):
        engine.step()
    urgent = engine.add(20, 4, priority=0)
    while not urgent.is_finished:
        engine.step()
        engine.scheduler.check_integrity()
    assert engine.counters.num_preemptions == 1
    assert not late.is_finished
    engine.drain()
