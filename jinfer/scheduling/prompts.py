"""The prompts of a step: which waiting sequences begin, and which tokens of their prompts are computed.

A chunk takes as much of the token budget as it can. So at most one sequence is in the middle of its prompt
when a step is planned, the last that began. So no two sequences compute the same prefix at a time:
when one is admitted, the prompts of all before it are planned to their ends and in the prefix cache, which
has the pages of a prompt as soon as these are planned. It waits no longer than it would for its turn anyway.
"""

import bisect
import heapq
import time
from collections.abc import Callable
from operator import attrgetter

from jinfer.config import EngineLimits
from jinfer.engine.stats import Counters
from jinfer.requests.request import Sequence
from jinfer.scheduling.page_pool import PageAllocator
from jinfer.scheduling.prefix_cache import Prefix, PrefixCache
from jinfer.scheduling.step_plan import ChunkPlan, StepInProgress

MakeRoom = Callable[[Sequence, int, StepInProgress], bool]
"""Makes pages for a number of tokens available to a sequence. False if it has to wait for them."""


_RANK = attrgetter("rank")


class PromptPlanner:
    """Plans chunks of prompts. Owns the sequences that wait and the rows that are free, and adds those that
    begin to `running`."""

    def __init__(
        self,
        limits: EngineLimits,
        counters: Counters,
        *,
        running: dict[Sequence, None],
        pages: PageAllocator,
        prefix_cache: PrefixCache,
        make_room: MakeRoom,
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._running = running
        self._pages = pages
        self._prefix_cache = prefix_cache
        self._make_room = make_room
        self.waiting: list[Sequence] = []  # in order of their ranks
        self._unfinished: Sequence | None = None  # in the middle of its prompt, unless it lost its row
        self.free_rows = list(range(limits.max_num_seqs))  # a heap: low rows first

    def add_waiting(self, sequence: Sequence) -> None:
        """Adds a sequence that is new or was preempted."""
        bisect.insort(self.waiting, sequence, key=_RANK)

    def free_row(self, row: int) -> None:
        """Takes back the row of a sequence that does not run any more."""
        heapq.heappush(self.free_rows, row)

    def plan(self, step: StepInProgress) -> bool:
        """Plans a chunk of the sequence that is in the middle of its prompt, if there is one, and of those
        that may begin. False if there is none."""
        unfinished = self._unfinished
        if unfinished is not None and unfinished.row is not None:
            num_tokens = min(unfinished.num_tokens - unfinished.num_computed_tokens, step.tokens_left)
            if num_tokens and self._make_room(unfinished, num_tokens, step):
                self._plan_chunk(unfinished, num_tokens, step, shared_page_ids=[])
        if not step.is_short_of_pages:
            self._admit(step)
        return bool(step.chunks)

    def _admit(self, step: StepInProgress) -> None:
        """Starts waiting sequences in order of their ranks while rows, tokens and pages last.

        A page for each row that runs is left free, or the newcomer would be preempted at the next page's end.
        """
        while self.waiting and self.free_rows and step.tokens_left:
            sequence = self.waiting[0]
            if sequence.num_pending_tokens:  # preempted a moment ago, its last token is not read yet
                return
            prefix = next(
                (p for p in self._prefix_cache.prefixes(sequence) if self._fits(sequence, p, step)), None
            )
            if prefix is None:
                return
            del self.waiting[0]
            self._begin(sequence, prefix, step)

    def _fits(self, sequence: Sequence, prefix: Prefix, step: StepInProgress) -> bool:
        num_tokens = prefix.num_tokens + min(sequence.num_tokens - prefix.num_tokens, step.tokens_left)
        num_needed = self._limits.pages_for(num_tokens) - prefix.num_shared_pages
        reserve = len(self._running)
        return num_needed + reserve <= self._pages.num_available - prefix.num_unlocked

    def _begin(self, sequence: Sequence, prefix: Prefix, step: StepInProgress) -> None:
        """Gives a sequence its row and its prefix, and plans its first chunk."""
        sequence.row = heapq.heappop(self.free_rows)
        self._add_running(sequence)
        if not sequence.has_begun:
            self._count_prompt(sequence, prefix)
        copied_page_id = self._prefix_cache.attach(sequence, prefix)
        num_tokens = min(sequence.num_tokens - prefix.num_tokens, step.tokens_left)
        self._plan_chunk(sequence, num_tokens, step, list(sequence.page_ids), copied_page_id)

    def _add_running(self, sequence: Sequence) -> None:
        """Nearly always it goes behind all others. One that overtakes them by its priority does not."""
        last = next(reversed(self._running), None)
        self._running[sequence] = None
        if last is not None and sequence.rank < last.rank:
            in_order = sorted(self._running, key=_RANK)
            self._running.clear()
            self._running.update(dict.fromkeys(in_order))

    def _count_prompt(self, sequence: Sequence, prefix: Prefix) -> None:
        sequence.has_begun = True
        if sequence.request.num_cached_tokens is None:
            sequence.request.num_cached_tokens = prefix.num_tokens
            sequence.request.begun_time = time.perf_counter()
        self._counters.num_prompt_tokens += len(sequence.request.prompt_token_ids)
        self._counters.num_prefix_hit_tokens += prefix.num_tokens

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
        self._unfinished = None if is_last_chunk else sequence
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
