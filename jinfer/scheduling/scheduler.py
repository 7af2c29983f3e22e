"""Continuous batching: which sequences run in the next step, how many tokens of each, and on which pages.

A policy decides which steps decode and which compute prompts (policies.py). Prompts are computed in chunks,
in order of their ranks, within a budget of tokens for each step (prompts.py). Pages are given out as they
are needed. When they run out, the sequence of the last rank is preempted: it loses its pages and waits to be
computed again, from what the prefix cache still holds by then. Ranks are by priority, and by arrival among
equals.

The scheduler plans ahead of what the host has read: a planned step counts as computed, and the token that it
samples as pending, so that the next step can be planned before the token is read. Reusing the pages of a
finished sequence at once is safe although a step on the device may still write to them: steps run in the
order in which they are planned.
"""

from jinfer.config import EngineLimits, SchedulingPolicy
from jinfer.engine.stats import Counters
from jinfer.requests.request import FinishReason, Sequence
from jinfer.scheduling.page_pool import PageAllocator, PagePool
from jinfer.scheduling.policies import new_policy
from jinfer.scheduling.prefix_cache import PrefixCache, RotationClass, rotated_by_position
from jinfer.scheduling.prompts import PromptPlanner
from jinfer.scheduling.radix_cache import RadixCache
from jinfer.scheduling.step_plan import StepInProgress, StepPlan


class Scheduler:
    """Owns the pages and all sequences that have not ended, those that wait through its PromptPlanner."""

    def __init__(
        self,
        limits: EngineLimits,
        counters: Counters,
        policy: SchedulingPolicy = "mixed",
        *,
        prefix_caching: bool = True,
        rotation_class: RotationClass = rotated_by_position,
    ) -> None:
        """`counters` outlive the scheduler: a new one adds to the same."""
        self.limits = limits
        self.counters = counters
        self._policy_name: SchedulingPolicy = policy
        self._prefix_caching = prefix_caching
        self._rotation_class = rotation_class
        self.reset()

    def reset(self) -> None:
        """Drops every sequence and page: all is free, and nothing is cached. The counters go on."""
        self._policy = new_policy(self._policy_name)
        self.page_pool = PagePool(self.limits.num_pages)
        self._prefix_cache = PrefixCache(
            self.limits,
            self.page_pool,
            is_enabled=self._prefix_caching,
            rotation_class=self._rotation_class,
        )
        self._pages = PageAllocator(self.limits, self.page_pool, evict=self._prefix_cache.tree.evict)
        self._running: dict[Sequence, None] = {}  # in order of their ranks
        self._prompts = PromptPlanner(
            self.limits,
            self.counters,
            running=self._running,
            pages=self._pages,
            prefix_cache=self._prefix_cache,
            make_room=self._make_room,
        )
        self._num_arrivals = 0

    @property
    def radix_cache(self) -> RadixCache:
        return self._prefix_cache.tree

    @property
    def running_sequences(self) -> tuple[Sequence, ...]:
        """The sequences that have a row, in order of arrival."""
        return tuple(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._prompts.waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._prompts.waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Adds a new sequence to the waiting ones."""
        sequence.arrival = self._num_arrivals
        self._num_arrivals += 1
        self._prompts.add_waiting(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence that ended and takes back its row and pages. These stay in the prefix cache,
        unless the sequence failed: they may be what is wrong."""
        if sequence in self._running:
            self._release(sequence, keep=sequence.finish_reason is not FinishReason.ERROR)
        elif sequence in self._prompts.waiting:
            self._prompts.waiting.remove(sequence)

    def schedule(self) -> StepPlan | None:
        """The next step, or None when nothing can run: all is done, or waits for a token that is still to be
        read."""
        step = StepInProgress(self.limits.max_num_batched_tokens)
        self._prefix_cache.begin_step()
        self._policy(lambda: self._plan_decode(step), lambda: self._prompts.plan(step))
        self._prefix_cache.end_step()
        return step.plan()

    def _plan_decode(self, step: StepInProgress) -> bool:
        """A token of every sequence whose newest one is on the device. It runs for each row of each step."""
        page_size = self.limits.page_size
        for sequence in tuple(self._running):
            position = sequence.num_computed_tokens
            if not sequence.has_token_on_device or position + 1 >= sequence.max_total_tokens:
                # Or it was preempted a moment ago; or its last token is sampled and has no use for a
                # position.
                continue
            if position % page_size == 0:
                if not self._make_room(sequence, 1, step):
                    continue
                step.new_pages[sequence] = self._pages.allocate(sequence, 1)[0]
            sequence.num_computed_tokens = position + 1
            sequence.num_pending_tokens += 1
            step.decoding.append(sequence)
        step.tokens_left -= len(step.decoding)
        return bool(step.decoding)

    def _make_room(self, sequence: Sequence, num_tokens: int, step: StepInProgress) -> bool:
        """Preempts sequences of later ranks until the pages for `num_tokens` more are available.

        The last of all does not run in this step: it keeps its pages, and waits for others to finish or for
        an earlier one to take them. So the first always gets what it needs; a prompt perhaps some steps
        later, for it takes no pages of a row that is in this step already.
        """
        while self._pages.num_missing(sequence, num_tokens) > self._pages.num_available:
            step.is_short_of_pages = True
            last = next(reversed(self._running))
            if last is sequence or last in step.decoding:
                return False
            self._preempt(last)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence, keep=True)
        self._prompts.add_waiting(sequence)
        self.counters.num_preemptions += 1

    def _release(self, sequence: Sequence, *, keep: bool) -> None:
        assert sequence.row is not None
        del self._running[sequence]
        self._prompts.free_row(sequence.row)
        self._prefix_cache.release(sequence, keep=keep)
        sequence.row = None
        sequence.has_token_on_device = False

    def check_integrity(self) -> None:
        """Raises AssertionError unless every row and page is accounted for once."""
        self._prefix_cache.check_integrity(self._running)
        rows = sorted([*self._prompts.free_rows, *(s.row for s in self._running if s.row is not None)])
        assert rows == list(range(self.limits.max_num_seqs)), "a row is lost, or has two owners"
        for sequences in (self._running, self._prompts.waiting):
            ranks = [sequence.rank for sequence in sequences]
            assert ranks == sorted(ranks), "a sequence runs or waits out of its turn"
        assert sum(not s.has_token_on_device for s in self._running) <= 1, (
            "two are in the middle of their prompts"
        )
