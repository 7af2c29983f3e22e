"""Continuous batching: which sequences run in the next step, how many tokens of each, and on which pages.

A policy decides which steps decode and which compute prompts (policies.py). Prompts are computed in chunks,
in order of arrival, within a budget of tokens for each step. Pages are given out as they are needed. When
they run out, the newest sequence is preempted: it loses its pages and waits, first in line, to be computed
again, from what the prefix cache still holds by then.

The scheduler plans ahead of what the host has read: a planned step counts as computed, and the token that it
samples as pending, so that the next step can be planned before the token is read. Reusing the pages of a
finished sequence at once is safe although a step on the device may still write to them: steps run in the
order in which they are planned.

A chunk takes as much of the token budget as it can. So at most one sequence is in the middle of its prompt
when a step is planned, and it is the newest that runs. So no two sequences compute the same prefix at a time:
when one is admitted, the prompts of all before it are planned to their ends and in the prefix cache, which
has the pages of a prompt as soon as these are planned. It waits no longer than it would for its turn anyway.
"""

import heapq
from collections import deque

from jinfer.config import Limits, SchedulingPolicy
from jinfer.engine.stats import Counters
from jinfer.requests.request import FinishReason, Sequence
from jinfer.scheduling.page_pool import PageAllocator, PagePool
from jinfer.scheduling.policies import new_policy
from jinfer.scheduling.prefix_cache import Prefix, PrefixCache, RotationClass, rotated_by_position
from jinfer.scheduling.step_plan import ChunkPlan, StepInProgress, StepPlan


class Scheduler:
    """Owns the pages, the free rows, and the waiting and running sequences."""

    def __init__(
        self,
        limits: Limits,
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
        self._waiting: deque[Sequence] = deque()
        self._running: dict[Sequence, None] = {}  # in order of arrival
        self._free_rows = list(range(self.limits.max_num_seqs))  # a heap: low rows first
        self._num_arrivals = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, sequence: Sequence) -> None:
        """Appends a new sequence to the waiting ones."""
        sequence.arrival = self._num_arrivals
        self._num_arrivals += 1
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Removes a sequence that ended and takes back its row and pages. These stay in the prefix cache,
        unless the sequence failed: they may be what is wrong."""
        if sequence in self._running:
            self._release(sequence, keep=sequence.finish_reason is not FinishReason.ERROR)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self) -> StepPlan | None:
        """The next step, or None when nothing can run: all is done, or waits for a token that is still to be
        read."""
        step = StepInProgress(self.limits.max_num_batched_tokens)
        self._prefix_cache.begin_step()
        self._policy(lambda: self._plan_decode(step), lambda: self._plan_prompts(step))
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

    def _plan_prompts(self, step: StepInProgress) -> bool:
        """A chunk of the sequence that is in the middle of its prompt, if there is one, and of those that may
        begin."""
        newest = next(reversed(self._running), None)
        if newest is not None and not newest.has_token_on_device:
            num_tokens = min(newest.num_tokens - newest.num_computed_tokens, step.tokens_left)
            if num_tokens and self._make_room(newest, num_tokens, step):
                self._plan_chunk(newest, num_tokens, step, shared_page_ids=[])
        if not step.is_short_of_pages:
            self._admit(step)
        return bool(step.chunks)

    def _make_room(self, sequence: Sequence, num_tokens: int, step: StepInProgress) -> bool:
        """Preempts newer sequences until the pages for `num_tokens` more are available.

        The newest of all does not run in this step: it keeps its pages, and waits for others to finish or for
        an older one to take them. So the oldest always gets what it needs.
        """
        while self._pages.num_missing(sequence, num_tokens) > self._pages.num_available:
            step.is_short_of_pages = True
            newest = next(reversed(self._running))
            if newest is sequence:
                return False
            self._preempt(newest)
        return True

    def _admit(self, step: StepInProgress) -> None:
        """Starts waiting sequences in order of arrival while rows, tokens and pages last.

        A page for each row that runs is left free, or the newcomer would be preempted at the next page's end.
        """
        while self._waiting and self._free_rows and step.tokens_left:
            sequence = self._waiting[0]
            if sequence.num_pending_tokens:  # preempted a moment ago, its last token is not read yet
                return
            prefix = next(
                (p for p in self._prefix_cache.prefixes(sequence) if self._fits(sequence, p, step)), None
            )
            if prefix is None:
                return
            self._waiting.popleft()
            self._begin(sequence, prefix, step)

    def _fits(self, sequence: Sequence, prefix: Prefix, step: StepInProgress) -> bool:
        num_tokens = prefix.num_tokens + min(sequence.num_tokens - prefix.num_tokens, step.tokens_left)
        num_needed = self.limits.pages_for(num_tokens) - prefix.num_shared_pages
        reserve = len(self._running)
        return num_needed + reserve <= self._pages.num_available - prefix.num_unlocked

    def _begin(self, sequence: Sequence, prefix: Prefix, step: StepInProgress) -> None:
        """Gives a sequence its row and its prefix, and plans its first chunk."""
        sequence.row = heapq.heappop(self._free_rows)
        self._running[sequence] = None
        if not sequence.has_begun:
            self._count_prompt(sequence, prefix)
        copied_page_id = self._prefix_cache.attach(sequence, prefix)
        num_tokens = min(sequence.num_tokens - prefix.num_tokens, step.tokens_left)
        self._plan_chunk(sequence, num_tokens, step, list(sequence.page_ids), copied_page_id)

    def _count_prompt(self, sequence: Sequence, prefix: Prefix) -> None:
        sequence.has_begun = True
        if sequence.request.num_cached_tokens is None:
            sequence.request.num_cached_tokens = prefix.num_tokens
        self.counters.num_prompt_tokens += len(sequence.request.prompt_token_ids)
        self.counters.num_prefix_hit_tokens += prefix.num_tokens

    def _plan_chunk(
        self,
        sequence: Sequence,
        num_tokens: int,
        step: StepInProgress,
        shared_page_ids: list[int],
        copied_page_id: int | None = None,
    ) -> None:
        """Allocates the pages, counts the tokens as computed, and publishes the full pages."""
        assert sequence.row is not None
        start = sequence.num_computed_tokens
        first_new_page = len(sequence.page_ids)
        new_page_ids = self._pages.allocate(sequence, self._pages.num_missing(sequence, num_tokens))
        end = start + num_tokens
        is_last_chunk = end == sequence.num_tokens
        sequence.num_computed_tokens = end
        sequence.has_token_on_device = is_last_chunk
        sequence.num_pending_tokens += is_last_chunk
        self._prefix_cache.publish(sequence)
        step.chunks.append(
            ChunkPlan(
                sequence=sequence,
                row=sequence.row,
                start=start,
                token_ids=sequence.token_ids[start:end],
                first_new_page=first_new_page,
                new_page_ids=new_page_ids,
                is_last_chunk=is_last_chunk,
                shared_page_ids=shared_page_ids,
                copied_page_id=copied_page_id,
            )
        )
        step.tokens_left -= num_tokens

    def _preempt(self, sequence: Sequence) -> None:
        self._release(sequence, keep=True)
        # It came before all that wait, for admission is in order of arrival.
        self._waiting.appendleft(sequence)
        self.counters.num_preemptions += 1

    def _release(self, sequence: Sequence, *, keep: bool) -> None:
        assert sequence.row is not None
        del self._running[sequence]
        heapq.heappush(self._free_rows, sequence.row)
        self._prefix_cache.release(sequence, keep=keep)
        sequence.row = None
        sequence.has_token_on_device = False

    def check_integrity(self) -> None:
        """Raises AssertionError unless every row and page is accounted for once."""
        self._prefix_cache.check_integrity(self._running)
        rows = sorted([*self._free_rows, *(s.row for s in self._running if s.row is not None)])
        assert rows == list(range(self.limits.max_num_seqs)), "a row is lost, or has two owners"
        arrivals = [s.arrival for s in (*self._running, *self._waiting) if s.arrival is not None]
        assert arrivals == sorted(arrivals), "a sequence runs or waits out of its turn"
        assert all(s.has_token_on_device for s in list(self._running)[:-1]), (
            "two are in the middle of their prompts"
        )
