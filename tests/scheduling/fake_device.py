"""A device in plain Python that runs a scheduler's plans as a real one would, and checks what each of them
reads."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from jinfer.config import EngineLimits, SchedulingPolicy
from jinfer.engine.stats import Counters
from jinfer.engine.steps import StepOutput, TokenLogprobs
from jinfer.requests.new_request import create_request
from jinfer.requests.request import FinishReason, Sequence
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.page_pool import PagePool
from jinfer.scheduling.policies import DECODE_STEPS
from jinfer.scheduling.scheduler import Scheduler
from jinfer.scheduling.step_plan import StepPlan

VOCAB_SIZE = 1000


def new_sequences(
    limits: EngineLimits,
    prompt: Collection[int],
    max_tokens: int,
    *,
    salt: str | None = None,
    n: int = 1,
    priority: int = 0,
) -> list[Sequence]:
    """The sequences of one request."""
    params = SamplingParams(max_tokens=max_tokens, cache_salt=salt, n=n, seed=0).with_defaults({})
    request = create_request(
        "test", None, prompt, params, eos_token_ids=frozenset(), vocab_size=VOCAB_SIZE, limits=limits
    )
    request.priority = priority
    return request.sequences


def keys_and_values(before: int, token_id: int) -> int:
    """What the fake model keeps of a token: a number that depends on it and on every token before it."""
    return hash((before, token_id))


def first_keys_and_values(sequence: Sequence) -> int:
    """What stands before the first token. With the salt in it, pages of different salts have nothing in
    common."""
    return sum(map(ord, sequence.params.cache_salt or ""))


def next_token(sequence: Sequence, newest: int) -> int:
    """What the fake model says after the token of which `newest` was kept: `n` completions of a prompt
    differ."""
    return (newest + 7 * sequence.index) % VOCAB_SIZE


def expected_token(sequence: Sequence) -> int:
    """The next token of a sequence that ran alone."""
    kept = first_keys_and_values(sequence)
    for token_id in sequence.token_ids:
        kept = keys_and_values(kept, token_id)
    return next_token(sequence, kept)


@dataclass(frozen=True)
class Row:
    """A row of a plan, whether it decodes (its one token is on the device, so that token_ids is None) or is a
    chunk."""

    sequence: Sequence
    row: int
    start: int
    num_tokens: int
    token_ids: list[int] | None
    first_new_page: int
    new_page_ids: list[int]
    samples: bool
    shared_page_ids: list[int] = field(default_factory=list)


def rows_of(plan: StepPlan, page_size: int) -> list[Row]:
    """Every row of a plan, in the order of its batch."""
    decode, new_pages = plan.decode, dict(plan.decode.new_pages)
    assert len(new_pages) == len(decode.new_pages)
    assert all(0 <= place < len(decode) for place in new_pages)
    rows = []
    for i, (sequence, row, start) in enumerate(
        zip(decode.sequences, decode.row_ids, decode.positions, strict=True)
    ):
        new_page_ids = [new_pages[i]] if i in new_pages else []
        rows.append(Row(sequence, row, start, 1, None, -(-start // page_size), new_page_ids, True))
    for c in plan.chunks:
        rows.append(
            Row(
                c.sequence,
                c.row,
                c.start,
                c.num_tokens,
                c.token_ids,
                c.first_new_page,
                c.new_page_ids,
                c.is_last_chunk,
                c.shared_page_ids,
            )
        )
    assert plan.sampling_sequences == [row.sequence if row.samples else None for row in rows]
    assert plan.num_tokens == sum(row.num_tokens for row in rows)
    return rows


class FakeDevice:
    """An executor whose rows and pages are lists and dicts. What a page held is gone when it becomes free. A
    handle is the tokens of the plan's rows."""

    def __init__(self, limits: EngineLimits, pool: PagePool) -> None:
        self.page_size = limits.page_size
        self.newest_token: dict[int, int] = {}
        self.page_tables: dict[int, dict[int, int]] = {row: {} for row in range(limits.max_num_seqs)}
        self.memory: dict[tuple[int, int], int] = {}
        self.num_copied = 0
        self._freed: list[int] = []
        for name in ("free", "evict"):
            setattr(pool, name, self._recording(getattr(pool, name)))

    def _recording(self, function: Callable[[list[int]], None]) -> Callable[[Iterable[int]], None]:
        def call(page_ids: Iterable[int]) -> None:
            freed = list(page_ids)
            function(freed)
            self._freed += freed

        return call

    def dispatch(self, plan: StepPlan) -> list[int | None]:
        """Copies pages, writes every row's keys and values, then samples from all that the row's pages
        hold."""
        self._forget_freed()
        self.num_copied += len(plan.page_copies)
        copied = [(target, self._page(source)) for source, target in plan.page_copies]
        for target, contents in copied:
            self.memory.update({(target, offset): kept for offset, kept in contents.items()})
        rows = rows_of(plan, self.page_size)
        for row in rows:
            self._write(row)
        return [self._sample(row) if row.samples else None for row in rows]

    def read(self, handle: list[int | None], logprob_rows: Collection[int]) -> StepOutput:
        """The log probability of a token is its negative, and itself the most likely."""
        logprobs = {
            row: TokenLogprobs(-float(handle[row]), [handle[row]], [-float(handle[row])])
            for row in logprob_rows
        }
        return StepOutput(token_ids=handle, logprobs=logprobs, wait_s=0.0)

    def reset(self) -> None:
        self.newest_token.clear()
        self.memory.clear()
        self._freed.clear()
        for table in self.page_tables.values():
            table.clear()

    def close(self) -> None:
        self.reset()

    def _forget_freed(self) -> None:
        for page_id in self._freed:
            for offset in range(self.page_size):
                self.memory.pop((page_id, offset), None)
        self._freed.clear()

    def _page(self, page_id: int) -> dict[int, int]:
        return {i: self.memory[page_id, i] for i in range(self.page_size) if (page_id, i) in self.memory}

    def _write(self, row: Row) -> None:
        table = self.page_tables[row.row]
        if row.shared_page_ids:
            table.clear()
            table.update(enumerate(row.shared_page_ids))
        for i, page_id in enumerate(row.new_page_ids):
            table[row.first_new_page + i] = page_id
        token_ids = [self.newest_token[row.row]] if row.token_ids is None else row.token_ids
        assert len(token_ids) == row.num_tokens
        kept = (
            self.memory[self._place(row.row, row.start - 1)]
            if row.start
            else first_keys_and_values(row.sequence)
        )
        for i, token_id in enumerate(token_ids):
            kept = self.memory[self._place(row.row, row.start + i)] = keys_and_values(kept, token_id)

    def _sample(self, row: Row) -> int:
        """Checks all that the row may read, and samples from the last of it."""
        kept = first_keys_and_values(row.sequence)
        last = row.start + row.num_tokens
        seen = [self.memory[self._place(row.row, position)] for position in range(last)]
        for token_id, found in zip(row.sequence.token_ids, seen, strict=False):
            kept = keys_and_values(kept, token_id)
            assert found == kept, "a page holds what is not its sequence's"
        self.newest_token[row.row] = next_token(row.sequence, seen[-1])
        return self.newest_token[row.row]

    def _place(self, row: int, position: int) -> tuple[int, int]:
        return self.page_tables[row][position // self.page_size], position % self.page_size


class FakeEngine:
    """Steps a scheduler and a FakeDevice with each result read one step late, and checks every plan."""

    def __init__(
        self, limits: EngineLimits, policy: SchedulingPolicy = "mixed", *, prefix_caching: bool = True
    ) -> None:
        self.limits = limits
        self.counters = Counters()
        self.policy = policy
        self.scheduler = Scheduler(limits, self.counters, policy, prefix_caching=prefix_caching)
        self.device = FakeDevice(limits, self.scheduler.page_pool)
        self.steps_without_prompts = 0
        self.eos_after: dict[Sequence, int | None] = {}
        self.live: list[Sequence] = []
        self.num_steps = 0
        self._in_flight: tuple[StepPlan, list[int | None]] | None = None
        self._next_start: dict[Sequence, int] = {}

    def add(
        self, prompt_length: int, max_tokens: int, *, eos_after: int | None = None, priority: int = 0
    ) -> Sequence:
        """Accepts a sequence with a prompt like no other, and ends it after `eos_after` tokens of output, or
        at its length bound."""
        prompt = [len(self.eos_after) % VOCAB_SIZE, *range(prompt_length - 1)]
        return self.add_prompt(prompt, max_tokens, eos_after=eos_after, priority=priority)[0]

    def add_prompt(
        self,
        prompt: Collection[int],
        max_tokens: int,
        *,
        eos_after: int | None = None,
        salt: str | None = None,
        n: int = 1,
        priority: int = 0,
    ) -> list[Sequence]:
        """As `add`, with a prompt that others may have as well."""
        sequences = new_sequences(self.limits, prompt, max_tokens, salt=salt, n=n, priority=priority)
        for sequence in sequences:
            self.eos_after[sequence] = eos_after
            self.live.append(sequence)
            self.scheduler.add(sequence)
        return sequences

    def abort(self, sequence: Sequence) -> None:
        self._end(sequence, FinishReason.ABORT)

    def fail(self, sequence: Sequence) -> None:
        self._end(sequence, FinishReason.ERROR)

    @property
    def has_priorities(self) -> bool:
        """True if not all that were accepted are equals."""
        return len({sequence.request.priority for sequence in self.eos_after}) > 1

    def step(self) -> StepPlan | None:
        """As Engine.step: plan and dispatch, then read the step before."""
        self.num_steps += 1
        first = min((s for s in self.live if s.row is not None), key=lambda s: s.rank, default=None)
        first_may_run = first is not None and first.num_tokens < first.max_total_tokens
        if first_may_run and self.has_priorities:  # in its prompt, it may wait for pages of rows in a step
            first_may_run = first.has_token_on_device
        plan = self.scheduler.schedule()
        self._check(plan)
        if first_may_run:
            assert plan is not None, "the first sequence stands still"
            is_prefill = self.policy == "prefill_first" and plan.chunks
            is_in_step = first in [row.sequence for row in self._rows(plan)]
            assert is_in_step or is_prefill, "the first sequence stands still"
        dispatched = (plan, self.device.dispatch(plan)) if plan else None
        if self._in_flight:
            plan_before, handle = self._in_flight
            self._read(plan_before, self.device.read(handle, ()).token_ids)
        elif plan is None:
            assert not self.live, "sequences wait, and nothing runs that they could wait for"
        self._in_flight = dispatched
        self.scheduler.check_integrity()
        return plan

    def drain(self) -> None:
        """Runs until nothing is left, in a bounded number of steps: the oldest gets a token in each, and is
        read. With `prefill_first`, prompts may fill every row in between."""
        max_between = 1 + (
            self.limits.max_num_seqs * self.limits.max_model_len if self.policy == "prefill_first" else 0
        )
        if self.has_priorities:  # one that is first may wait, in its prompt, for others to fill their pages
            max_between *= 1 + self.limits.max_num_seqs * self.limits.page_size
        most = self.num_steps + 2 + max_between * sum(sequence.max_total_tokens + 2 for sequence in self.live)
        while self.live or self._in_flight:
            self.step()
            assert self.num_steps <= most, "the scheduler makes no progress"
        assert not self.scheduler.has_work
        assert self.scheduler.page_pool.num_used == 0

    def _read(self, plan: StepPlan, token_ids: list[int | None]) -> None:
        for sequence, token_id in zip(plan.sampling_sequences, token_ids, strict=True):
            if sequence is None:
                continue
            sequence.num_pending_tokens -= 1
            if sequence.is_finished:
                continue
            assert token_id == expected_token(sequence), "a step has read what is not its sequence's"
            sequence.token_ids.append(token_id)
            if sequence.num_output_tokens == self.eos_after[sequence]:
                self._end(sequence, FinishReason.STOP)
            elif len(sequence.token_ids) >= sequence.max_total_tokens:
                self._end(sequence, FinishReason.LENGTH)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self.live.remove(sequence)
        self.scheduler.remove(sequence)

    def _rows(self, plan: StepPlan) -> list[Row]:
        return rows_of(plan, self.limits.page_size)

    def _check(self, plan: StepPlan | None) -> None:
        waiting = [s for s in self.live if s.row is None]
        for one in (s for s in self.live if s.row is not None):
            has_joined = one not in self._next_start
            rivals = [s for s in waiting if has_joined or s.request.priority == one.request.priority]
            assert all(one.rank < s.rank for s in rivals), "admitted out of turn"
        for sequence in self.live:
            if sequence.row is None:
                self._next_start.pop(sequence, None)  # preempted, it begins again
        if plan is not None:
            self._check_rows(plan)
            self._check_policy(plan)

    def _check_policy(self, plan: StepPlan) -> None:
        if self.policy == "prefill_first":
            assert not (plan.chunks and plan.decode), "prompts and decode rows in one step"
        if self.policy == "decode_first" and plan.decode:
            assert not plan.chunks or self.steps_without_prompts >= DECODE_STEPS - 1
        self.steps_without_prompts = 0 if plan.chunks else self.steps_without_prompts + 1

    def _check_rows(self, plan: StepPlan) -> None:
        rows = self._rows(plan)
        assert 0 < plan.num_tokens <= self.limits.max_num_batched_tokens
        assert len({row.row for row in rows}) == len({row.sequence for row in rows}) == len(rows)
        assert len(rows) == plan.num_rows <= self.limits.max_num_seqs
        starts = [row.start for row in rows if row.token_ids is None]
        assert starts == sorted(starts, reverse=True), "a short row decodes before a longer one"
        joined = [row for row in rows if row.token_ids is not None and row.sequence not in self._next_start]
        ranks = [row.sequence.rank for row in joined]
        assert ranks == sorted(ranks)
        for row in rows:
            self._check_row(row)

    def _check_row(self, row: Row) -> None:
        sequence = row.sequence
        assert not sequence.is_finished
        assert row.row == sequence.row
        assert row.num_tokens > 0
        begin = self._next_start.get(sequence)
        if begin is None:  # it joins, perhaps with what the prefix cache has
            num_shared = len(row.shared_page_ids) * self.limits.page_size
            assert num_shared <= row.start < num_shared + self.limits.page_size
        else:
            assert row.start == begin, "a chunk does not begin where the last one ended"
            assert not row.shared_page_ids
        end = self._next_start[sequence] = row.start + row.num_tokens
        assert end < sequence.max_total_tokens, "the last token has no use for keys and values"
        assert len(sequence.page_ids) == self.limits.pages_for(end), (
            "pages for other than the tokens that exist"
        )
        assert row.samples == (end >= len(sequence.token_ids))
        if row.token_ids is not None:
            assert row.token_ids == sequence.token_ids[row.start : end]
