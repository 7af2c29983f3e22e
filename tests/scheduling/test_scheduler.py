"""The scheduler on a fake device: its promises after any sequence of events."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_args

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from jinfer.config import EngineLimits, SchedulingPolicy
from tests.scheduling.fake_device import FakeEngine

ROOT = Path(__file__).resolve().parents[2]


@st.composite
def all_limits(draw: st.DrawFn) -> EngineLimits:
    """Engines that are short of everything: the longest sequence fits into the pages, and often nothing
    else."""
    page_size, max_model_len = draw(st.sampled_from([1, 2, 4])), draw(st.integers(2, 16))
    needed = -(-max_model_len // page_size)
    max_num_seqs = draw(st.integers(1, 4))
    return EngineLimits(
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
        self, limits: EngineLimits, policy: SchedulingPolicy, prefix_caching: bool, has_priorities: bool
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
