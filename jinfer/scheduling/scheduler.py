"""Continuous batching: which sequences run in the next step, how many tokens of each, and on which pages.

Policy `mixed`: decode rows first, so that nobody who has begun is kept waiting, then chunks of prompts in order of
arrival with the rest of the token budget (the chunked prefill of Agrawal et al., "Sarathi-Serve", 2024). Pages are
given out as they are needed. When they run out, the newest sequence is preempted: it loses its pages and waits, first
in line, to be computed again.

The scheduler plans ahead of what the host knows: a planned step counts as computed, and the token that it will sample
as pending, so that the next step can be planned before the token is read. Reusing the pages of a finished sequence at
once is safe although a step on the device may still write to them: steps run in the order in which they are planned.
"""

import heapq
from collections import deque

from jinfer.config import Limits
from jinfer.request import Sequence
from jinfer.scheduling.page_pool import PagePool
from jinfer.scheduling.step_plan import RowPlan, StepPlan


class Scheduler:
    """Owns the page pool, the free rows, and the waiting and running sequences."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.page_pool = PagePool(limits.num_pages)
        self.num_preemptions = 0
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # in order of arrival
        self._free_rows = list(range(limits.max_num_seqs))  # a heap: low rows first
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
        """Puts a new sequence at the end of the line."""
        sequence.arrival = self._num_arrivals
        self._num_arrivals += 1
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a finished or aborted sequence out and frees what it holds."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    def schedule(self) -> StepPlan | None:
        """The next step, or None when nothing can run: all is done, or waits for a token that is still to be read."""
        step = _StepInProgress(self._limits.max_num_batched_tokens)
        decoding = [s for s in self._running if s.has_token_on_device]
        prefilling = [s for s in self._running if not s.has_token_on_device]
        for sequence in decoding:
            self._plan_decode(sequence, step)
        for sequence in prefilling:
            self._plan_chunk(sequence, step)
        if not step.short_of_pages:
            self._admit(step)
        return StepPlan(tuple(step.rows)) if step.rows else None

    def _plan_decode(self, sequence: Sequence, step: "_StepInProgress") -> None:
        is_preempted = sequence.row is None
        if is_preempted or sequence.num_tokens >= sequence.max_total_tokens:
            return
        if self._make_room(sequence, 1, step):
            step.plan(self._advance(sequence, 1))

    def _plan_chunk(self, sequence: Sequence, step: "_StepInProgress") -> None:
        num_tokens = min(sequence.num_tokens - sequence.num_computed_tokens, step.tokens_left)
        if sequence.row is None or num_tokens == 0:
            return
        if self._make_room(sequence, num_tokens, step):
            step.plan(self._advance(sequence, num_tokens))

    def _make_room(self, sequence: Sequence, num_tokens: int, step: "_StepInProgress") -> bool:
        """Preempts newer sequences until the pages for `num_tokens` more are free.

        Sequences already in this step are not touched. The newest of the rest does not run now: it keeps its pages, and
        waits for others to finish or for an older one to take them. So the oldest always gets what it needs.
        """
        while self._num_missing_pages(sequence, num_tokens) > self.page_pool.num_free:
            step.short_of_pages = True
            victim = next(s for s in reversed(self._running) if s not in step.sequences)
            if victim is sequence:
                return False
            self._preempt(victim)
        return True

    def _admit(self, step: "_StepInProgress") -> None:
        """Starts waiting sequences in order of arrival while rows, tokens and pages last.

        A page for each row that runs is left free, or the newcomer would be preempted at the next page's end.
        """
        while self._waiting and self._free_rows and step.tokens_left:
            sequence = self._waiting[0]
            if sequence.num_pending_tokens:  # preempted a moment ago, its last token is not read yet
                return
            num_tokens = min(sequence.num_tokens, step.tokens_left)
            reserve = len(self._running)
            if self._num_missing_pages(sequence, num_tokens) + reserve > self.page_pool.num_free:
                return
            self._waiting.popleft()
            sequence.row = heapq.heappop(self._free_rows)
            self._running.append(sequence)
            step.plan(self._advance(sequence, num_tokens))

    def _advance(self, sequence: Sequence, num_tokens: int) -> RowPlan:
        """Gives the pages and counts the tokens as computed."""
        assert sequence.row is not None
        start, first_new_page = sequence.num_computed_tokens, len(sequence.page_ids)
        new_page_ids = self.page_pool.allocate(self._num_missing_pages(sequence, num_tokens))
        assert new_page_ids is not None
        sequence.page_ids.extend(new_page_ids)
        is_decode = sequence.has_token_on_device
        token_ids = None if is_decode else tuple(sequence.token_ids[start : start + num_tokens])
        sequence.num_computed_tokens += num_tokens
        samples = sequence.num_computed_tokens == sequence.num_tokens
        if samples:
            sequence.num_pending_tokens += 1
            sequence.has_token_on_device = True
        return RowPlan(
            sequence, sequence.row, start, num_tokens, token_ids, first_new_page, tuple(new_page_ids), samples
        )

    def _num_missing_pages(self, sequence: Sequence, num_tokens: int) -> int:
        return self._limits.pages_for(sequence.num_computed_tokens + num_tokens) - len(sequence.page_ids)

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        self._waiting.appendleft(sequence)  # it came before all that wait, for admission is in order of arrival
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        heapq.heappush(self._free_rows, sequence.row)
        self.page_pool.free(sequence.page_ids)
        sequence.row, sequence.page_ids = None, []
        sequence.num_computed_tokens, sequence.has_token_on_device = 0, False

    def check_integrity(self) -> None:
        """Raises AssertionError unless rows and pages each have exactly one place."""
        self.page_pool.check_integrity()
        held = [page_id for sequence in self._running for page_id in sequence.page_ids]
        assert len(held) == len(set(held)) == self.page_pool.num_used, "a page is used by nobody, or by two"
        rows = sorted([*self._free_rows, *(s.row for s in self._running if s.row is not None)])
        assert rows == list(range(self._limits.max_num_seqs)), "a row is lost, or has two owners"
        arrivals = [s.arrival for s in (*self._running, *self._waiting) if s.arrival is not None]
        assert arrivals == sorted(arrivals), "a sequence runs or waits out of its turn"


class _StepInProgress:
    """The rows planned so far, and the token budget that is left."""

    def __init__(self, token_budget: int) -> None:
        self.rows: list[RowPlan] = []
        self.sequences: set[Sequence] = set()
        self.tokens_left = token_budget
        self.short_of_pages = False  # nobody is admitted then

    def plan(self, row: RowPlan) -> None:
        self.rows.append(row)
        self.sequences.add(row.sequence)
        self.tokens_left -= row.num_tokens
