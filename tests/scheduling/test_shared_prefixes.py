"""What the scheduler shares of prompts that begin alike, and what it copies."""

from tests.scheduling.fake_device import FakeEngine
from tests.scheduling.limits import limits, summary


def test_what_was_computed_is_found_by_who_begins_the_same():
    engine = FakeEngine(limits(max_num_batched_tokens=16))
    engine.add_prompt(range(10), 2)
    engine.drain()
    same, longer = engine.add_prompt(range(10), 2)[0], engine.add_prompt([*range(12), 0], 2)[0]
    plan = engine.step()
    assert summary(plan) == [(1, 8, 2), (2, 10, 3)]
    assert [chunk.shared_page_ids for chunk in plan.chunks] == [[1, 2], [1, 2]]
    assert (same.request.num_cached_tokens, longer.request.num_cached_tokens) == (8, 10)
    engine.drain()


def test_a_prompt_is_shared_in_the_step_that_computes_it():
    """Four requests of two full pages and one token: the pages are computed once."""
    engine = FakeEngine(limits(max_num_batched_tokens=16))
    for _ in range(4):
        engine.add_prompt(range(9), 3)
    plan = engine.step()
    assert summary(plan) == [(0, 0, 9), (1, 8, 1), (2, 8, 1), (3, 8, 1)]
    assert plan.page_copies == []
    engine.drain()


def test_completions_of_a_prompt_share_its_pages():
    engine = FakeEngine(limits())
    engine.add_prompt(range(8), 9, n=3)
    assert summary(engine.step()) == [(0, 0, 8)]
    plan = engine.step()
    assert summary(plan) == [(0, 8, 1), (1, 7, 1), (2, 7, 1)]
    assert [source for source, _ in plan.page_copies] == [2, 2], "three of the second page's four tokens"
    assert engine.scheduler.page_pool.num_used == 1 + 3 + 1, (
        "the first page, three second ones, and one for an output"
    )
    engine.drain()


def test_nobody_computes_what_another_computes_just_now():
    """A prompt of three steps, and one that goes on from it: it begins where the first one ends, in the same
    step."""
    engine = FakeEngine(limits(max_num_batched_tokens=8))
    engine.add_prompt(range(20), 3)
    engine.add_prompt([*range(20), 5, 6], 3)
    assert [summary(engine.step()) for _ in range(3)] == [[(0, 0, 8)], [(0, 8, 8)], [(0, 16, 4), (1, 20, 2)]]
    engine.drain()


def test_salts_share_nothing():
    engine = FakeEngine(limits(max_num_batched_tokens=32))
    for salt in ("a", "b", None, "a"):
        engine.add_prompt(range(9), 1, salt=salt)
    assert summary(engine.step()) == [(0, 0, 9), (1, 0, 9), (2, 0, 9), (3, 8, 1)]
    engine.drain()


def test_a_page_that_fits_in_part_is_copied_if_it_saves_half_a_page():
    engine = FakeEngine(limits(max_num_batched_tokens=32))
    engine.add_prompt(range(8), 4)  # keeps two pages, and a third with three tokens
    engine.drain()
    first = engine.scheduler.page_pool.num_cached
    assert first == 3
    engine.add_prompt([0, 1, 2, 9], 1)  # three of the first page's four
    plan = engine.step()
    assert summary(plan) == [(1, 3, 1)]
    assert plan.page_copies == [(1, 4)]
    engine.drain()
    engine.add_prompt([0, 9, 9, 9], 1)  # one of four
    plan = engine.step()
    assert summary(plan) == [(2, 0, 4)]
    assert plan.page_copies == []
    engine.drain()


def test_the_tail_of_a_conversation_is_copied():
    engine = FakeEngine(limits(max_num_batched_tokens=32))
    (turn,) = engine.add_prompt(range(8), 4)
    engine.drain()
    engine.add_prompt([*turn.token_ids, 1, 2, 3], 2)
    plan = engine.step()
    assert summary(plan) == [(1, 11, 4)], "of twelve tokens the last was sampled, and never computed"
    assert plan.page_copies == [(3, 4)]
    engine.drain()


def test_a_page_of_the_same_step_is_not_copied():
    """The copies of a step come before it."""
    engine = FakeEngine(limits(max_num_batched_tokens=32))
    engine.add_prompt(range(8), 4)
    engine.add_prompt([0, 1, 2, 3, 4, 5, 6, 9], 4)
    plan = engine.step()
    assert summary(plan) == [(0, 0, 8), (1, 4, 4)]
    assert engine.scheduler.running_sequences == tuple(chunk.sequence for chunk in plan.chunks)
    assert plan.page_copies == []
    engine.drain()


def test_cached_pages_go_before_anybody_is_preempted_least_recently_used_first():
    engine = FakeEngine(limits(num_pages=1 + 8, max_num_seqs=2, max_num_batched_tokens=32))
    old, new = [0] * 9, [1] * 9
    for prompt in (old, new):
        engine.add_prompt(prompt, 1)
        engine.drain()
    assert engine.scheduler.page_pool.num_cached == 4
    assert [node.token_ids for node in engine.scheduler.radix_cache.eviction_order] == [[0] * 8, [1] * 8]
    # Takes the four that are free, and then three: the old, and the end of the new.
    engine.add_prompt([2] * 20, 8)
    engine.drain()
    engine.add_prompt(new, 1)
    engine.add_prompt(old, 1)
    assert summary(engine.step()) == [(3, 4, 5), (4, 0, 9)]
    assert engine.counters.num_preemptions == 0
    engine.drain()


def test_a_preempted_sequence_goes_on_from_what_is_left_of_it():
    engine = FakeEngine(limits(page_size=2, num_pages=1 + 7, max_model_len=14, max_num_seqs=2))
    oldest, newest = engine.add(5, 8), engine.add(3, 5)
    while newest.row is not None or newest.arrival is None or not newest.has_begun:
        engine.step()
    while newest.row is None:
        plan = engine.step()
    (chunk,) = plan.chunks
    assert chunk.sequence is newest
    assert chunk.start == 2, "its first page, for the oldest took the others"
    assert oldest.is_finished
    engine.drain()


def test_what_a_failed_sequence_computed_is_forgotten():
    """It may be what is wrong. What others use stays."""
    engine = FakeEngine(limits())
    engine.add_prompt(range(4), 20)
    engine.step()
    (failed,) = engine.add_prompt([*range(4), 9, 9, 9, 9, 9], 20)
    engine.step()
    assert failed.num_shared_pages == 2
    engine.fail(failed)
    assert engine.scheduler.page_pool.num_cached == 0
    engine.add_prompt([*range(4), 9, 9, 9, 9, 9], 2)
    assert engine.step().chunks[0].start == 4
    engine.drain()


def test_a_prefix_that_fills_the_pages_is_no_reason_to_wait_for_ever():
    """All pages are cached: three that fit, one that fits in part, and one more. Without the copy there is
    room."""
    engine = FakeEngine(limits(num_pages=1 + 5, max_model_len=20, max_num_seqs=1, max_num_batched_tokens=20))
    engine.add_prompt(range(16), 4)
    engine.drain()
    assert engine.scheduler.page_pool.num_cached == 5
    engine.add_prompt([*range(15), 0, 0, 0, 0], 1)
    plan = engine.step()
    assert summary(plan) == [(1, 12, 7)]
    assert plan.page_copies == []
    engine.drain()
