"""The scheduler on a fake device: its promises after any sequence of events, and the policies one by one."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from jinfer.config import Limits, SchedulingPolicy
from jinfer.requests.request import FinishReason
from jinfer.scheduling.step_plan import StepPlan
from tests.scheduling.fake_device import FakeEngine, rows_of

ROOT = Path(__file__).resolve().parents[2]


@st.composite
def all_limits(draw: st.DrawFn) -> Limits:
    """Engines that are short of everything: the longest sequence fits into the pages, and often nothing
    else."""
    page_size, max_model_len = draw(st.sampled_from([1, 2, 4])), draw(st.integers(2, 16))
    needed = -(-max_model_len // page_size)
    max_num_seqs = draw(st.integers(1, 4))
    return Limits(
        page_size=page_size,
        num_pages=1 + needed + draw(st.integers(0, 2)),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + draw(st.integers(0, 6)),
        max_model_len=max_model_len,
    )


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A request whose prompt goes with one of two texts for a while, and on by itself; as shares of the
    longest."""

    length: float
    shared: float
    text: int
    max_tokens: int
    eos_after: int | None
    salt: str | None
    n: int
    priority: int

    def prompt(self, longest: int) -> list[int]:
        length = 1 + round(self.length * (longest - 1))
        num_shared = round(self.shared * length)
        return [self.text] * num_shared + [2 + self.max_tokens % 3] * (length - num_shared)


arrivals = st.builds(
    Arrival,
    length=st.floats(0, 1),
    shared=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    text=st.integers(0, 1),
    max_tokens=st.integers(1, 16),
    eos_after=st.none() | st.integers(1, 6),
    salt=st.sampled_from([None, None, None, "salt"]),
    n=st.sampled_from([1, 1, 1, 2]),
    priority=st.sampled_from([0, 0, -1, 1]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Sequences arrive, end and are aborted at any time. FakeEngine checks each step."""

    @initialize(
        limits=all_limits(),
        policy=st.sampled_from(get_args(SchedulingPolicy)),
        prefix_caching=st.sampled_from([True, True, False]),
        has_priorities=st.booleans(),
    )
    def start(
        self, limits: Limits, policy: SchedulingPolicy, prefix_caching: bool, has_priorities: bool
    ) -> None:
        self.engine, self.accepted = FakeEngine(limits, policy, prefix_caching=prefix_caching), []
        self.prefix_caching, self.has_priorities = prefix_caching, has_priorities

    @rule(several=st.lists(arrivals, min_size=1, max_size=5))
    def add(self, several: list[Arrival]) -> None:
        longest = self.engine.limits.max_model_len - 1
        for one in several:
            self.accepted += self.engine.add_prompt(
                one.prompt(longest),
                one.max_tokens,
                eos_after=one.eos_after,
                salt=one.salt,
                n=one.n,
                priority=one.priority if self.has_priorities else 0,
            )

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    @rule(place=st.integers(0, 9))
    def abort(self, place: int) -> None:
        if place < len(self.engine.live):
            self.engine.abort(self.engine.live[place])
            self.engine.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        self.engine.drain()
        assert all(sequence.is_finished for sequence in self.accepted)
        counters = self.engine.counters
        event(f"{self.engine.policy}, preempted: {counters.num_preemptions > 0}")
        event(
            f"prefix hits: {counters.num_prefix_hit_tokens > 0}, pages copied: "
            f"{self.engine.device.num_copied > 0}"
        )
        assert self.prefix_caching or counters.num_prefix_hit_tokens == 0
        assert counters.num_prefix_hit_tokens <= counters.num_prompt_tokens


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True, report_multiple_bugs=False
)


PLENTY = Limits(page_size=4, num_pages=100, max_num_seqs=4, max_num_batched_tokens=8, max_model_len=32)


def limits(**changes: int) -> Limits:
    return dataclasses.replace(PLENTY, **changes)


def summary(plan: StepPlan | None) -> list[tuple[int, int, int]] | None:
    """(arrival, start, num_tokens) of each row."""
    return plan and [
        (row.sequence.arrival, row.start, row.num_tokens) for row in rows_of(plan, PLENTY.page_size)
    ]


def test_the_scheduler_needs_no_jax():
    """With the package's own __init__, which imports everything, left out."""
    program = """if True:
        import importlib, pathlib, sys, types
        package = types.ModuleType("jinfer")
        package.__path__ = ["jinfer"]
        sys.modules["jinfer"] = package
        for path in pathlib.Path("jinfer/scheduling").glob("*.py"):
            importlib.import_module(f"jinfer.scheduling.{path.stem}")
        assert "jinfer.scheduling.scheduler" in sys.modules
        sys.exit(", ".join(name for name in ("jax", "jaxlib", "flax") if name in sys.modules) or None)
        """
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


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
