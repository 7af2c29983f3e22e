"""The prefix cache against a model of it: what each page holds, and which prefixes are known."""

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jinfer.config import EngineLimits
from jinfer.requests.request import Sequence
from jinfer.scheduling.page_pool import PageAllocator, PagePool
from jinfer.scheduling.prefix_cache import Prefix, PrefixCache
from jinfer.scheduling.radix_cache import MAX_CANDIDATES
from tests.scheduling.fake_device import new_sequences

MAX_MODEL_LEN = 14
places = st.integers(0, 3)  # among the sequences that run
Place = tuple[int, int]  # page, offset
Believed = tuple[str | None, tuple[int, ...]]  # a salt, and all tokens up to the one that is there


def limits(page_size: int = 2, num_pages: int = 20) -> EngineLimits:
    return EngineLimits(page_size, num_pages, 8, 64, MAX_MODEL_LEN)


def sequence(token_ids: list[int], salt: str | None = None) -> Sequence:
    return new_sequences(limits(), token_ids, MAX_MODEL_LEN, salt=salt)[0]


class Pages:
    """The pages of a scheduler: their states, the prefix cache, and the allocator that evicts from it."""

    def __init__(self, limits: EngineLimits, *, is_enabled: bool = True, **options) -> None:
        self.pool = PagePool(limits.num_pages)
        self.cache = PrefixCache(limits, self.pool, is_enabled=is_enabled, **options)
        self.allocator = PageAllocator(limits, self.pool, evict=self.cache.tree.evict)


class PrefixCacheMachine(RuleBasedStateMachine):
    """Sequences begin with what is cached, grow, and leave their pages behind or not; each rule that plans is
    a step.

    `memory` is what was written: a token's keys and values depend on every token before it, and those of
    other salts must not be seen. It loses what is in a page that becomes free.
    """

    @initialize(
        page_size=st.sampled_from([1, 2, 4]),
        num_pages=st.integers(6, 20),
        caching=st.sampled_from([True] * 4 + [False]),
    )
    def start(self, page_size: int, num_pages: int, caching: bool) -> None:
        self.size, self.caching = page_size, caching
        self.limits = limits(page_size, max(num_pages, 2 + -(-MAX_MODEL_LEN // page_size)))
        self.pages = Pages(self.limits, is_enabled=caching)
        self.running: list[Sequence] = []
        self.memory: dict[Place, Believed] = {}
        self.num_copies = self.num_found = 0
        for name in ("free", "evict"):
            setattr(self.pages.pool, name, self.forgetting(getattr(self.pages.pool, name)))

    def forgetting(self, function):
        def call(page_ids) -> None:
            freed = list(page_ids)
            function(freed)
            self.memory = {place: it for place, it in self.memory.items() if place[0] not in freed}

        return call

    # --- what sequences believe

    def believed(self, sequence: Sequence, position: int) -> Believed:
        return sequence.params.cache_salt, tuple(sequence.token_ids[: position + 1])

    def place(self, sequence: Sequence, position: int) -> Place:
        return sequence.page_ids[position // self.size], position % self.size

    def check_contents(self, sequence: Sequence) -> None:
        for position in range(min(sequence.num_computed_tokens, len(sequence.token_ids))):
            assert self.memory[self.place(sequence, position)] == self.believed(sequence, position)

    def known_tokens(self, sequence: Sequence) -> int:
        """The most tokens, in whole pages, that some row of pages in memory holds of a sequence: the longest
        that could be found, wherever that is kept."""
        whole = {page: it for (page, offset), it in self.memory.items() if offset == self.size - 1}
        found, most = 0, len(sequence.token_ids) - 1
        while found + self.size <= most and self.believed(sequence, found + self.size - 1) in whole.values():
            found += self.size
        return found

    # --- what happens

    def compute(self, sequence: Sequence, num_tokens: int) -> None:
        """A chunk that the pages must be there for."""
        self.pages.allocator.allocate(sequence, self.pages.allocator.num_missing(sequence, num_tokens))
        for position in range(sequence.num_computed_tokens, sequence.num_computed_tokens + num_tokens):
            place = self.place(sequence, position)
            assert place[0] not in self.shared_pages(), "a shared page is written to"
            self.memory[place] = self.believed(sequence, position)
        sequence.num_computed_tokens += num_tokens

    def shared_pages(self) -> set[int]:
        return {page for s in self.running for page in s.page_ids[: s.num_shared_pages]}

    @rule(
        text=st.integers(0, 1),
        num_same=st.integers(0, MAX_MODEL_LEN - 1),
        own=st.lists(st.integers(0, 2), min_size=1, max_size=4),
        salt=st.sampled_from([None, None, None, "salt"]),
        data=st.data(),
    )
    def begin(self, text: int, num_same: int, own: list[int], salt: str | None, data: st.DataObject) -> None:
        one = sequence(([text] * num_same + own)[: MAX_MODEL_LEN - 1], salt)
        self.pages.cache.begin_step()
        prefixes = list(self.pages.cache.prefixes(one))
        self.check_prefixes(one, prefixes)
        fitting = [p for p in prefixes if self.fits(one, p)]
        if fitting:
            prefix = data.draw(st.sampled_from(fitting), label="prefix")
            self.join(
                one, prefix, data.draw(st.integers(1, len(one.token_ids) - prefix.num_tokens), label="chunk")
            )
        self.pages.cache.end_step()

    def check_prefixes(self, one: Sequence, prefixes: list[Prefix]) -> None:
        whole = prefixes[-1]
        assert whole.num_tokens == whole.num_shared_pages * self.size < len(one.token_ids)
        assert whole.num_tokens <= self.known_tokens(one)
        for partial in prefixes[:-1]:
            assert (
                whole.num_tokens + self.size / 2
                <= partial.num_tokens
                < min(whole.num_tokens + self.size, len(one.token_ids))
            )
        assert self.caching or whole.num_tokens == 0

    def fits(self, one: Sequence, prefix: Prefix) -> bool:
        needed = self.limits.pages_for(len(one.token_ids)) - prefix.num_shared_pages
        return needed <= self.pages.allocator.num_available - prefix.num_unlocked

    def join(self, one: Sequence, prefix: Prefix, num_tokens: int) -> None:
        source = self.pages.cache.attach(one, prefix)
        self.running.append(one)
        self.num_found += prefix.num_tokens > 0
        self.pages.allocator.allocate(one, self.pages.allocator.num_missing(one, num_tokens))
        if source is not None:
            self.num_copies += 1
            target = one.page_ids[prefix.num_shared_pages]
            for offset in range(self.size):
                if (source, offset) in self.memory:
                    self.memory[target, offset] = self.memory[source, offset]
        self.check_contents(one)
        self.compute(one, num_tokens)
        self.pages.cache.publish(one)

    @rule(place=places, data=st.data())
    def go_on(self, place: int, data: st.DataObject) -> None:
        """With the prompt, or with a token of output; after one that the host does not know, a sequence only
        ends."""
        if place >= len(self.running):
            return
        one = self.running[place]
        waiting = len(one.token_ids) - one.num_computed_tokens
        if waiting < 0 or one.num_computed_tokens == MAX_MODEL_LEN:
            return
        if waiting == 0 and data.draw(st.booleans(), label="known"):
            one.token_ids.append(data.draw(st.integers(0, 1), label="token"))
            waiting = 1
        num_tokens = data.draw(st.integers(1, max(1, waiting)), label="tokens")
        if self.pages.allocator.num_missing(one, num_tokens) <= self.pages.allocator.num_available:
            self.pages.cache.begin_step()
            self.compute(one, num_tokens)
            if waiting > 0:
                self.pages.cache.publish(one)
            self.pages.cache.end_step()

    @rule(place=places)
    def end_or_preempt(self, place: int) -> None:
        """What it leaves is found at once, up to its last known token; all full pages, and the last if half
        full."""
        if place >= len(self.running):
            return
        one = self.running.pop(place)
        num_known = min(one.num_computed_tokens, len(one.token_ids))
        self.pages.cache.release(one, keep=True)
        assert (one.page_ids, one.num_computed_tokens, one.num_shared_pages) == ([], 0, 0)
        one.token_ids[num_known:] = [99]  # begins after what was known
        self.pages.cache.begin_step()
        best = next(self.pages.cache.prefixes(one))
        self.pages.cache.end_step()
        num_in_last_page = num_known % self.size
        if not self.caching:
            assert best.num_tokens == 0
        elif num_in_last_page < self.size / 2:
            assert best.num_tokens >= num_known - num_in_last_page
        else:
            children = len(best.match.node.children)
            assert best.num_tokens == num_known or children > MAX_CANDIDATES

    @rule(place=places)
    def fail(self, place: int) -> None:
        """Nobody finds more of it than what others have."""
        if place >= len(self.running):
            return
        one = self.running.pop(place)
        own = one.page_ids[one.num_shared_pages :]
        self.pages.cache.release(one, keep=False)
        assert not [place for place in self.memory if place[0] in own]

    @invariant()
    def all_is_in_its_place(self) -> None:
        self.pages.cache.check_integrity(self.running)
        for one in self.running:
            self.check_contents(one)

    def teardown(self) -> None:
        if not hasattr(self, "pages"):
            return
        for one in self.running:
            self.pages.cache.release(one, keep=True)
        self.pages.cache.check_integrity([])
        pool = self.pages.pool
        assert pool.num_used == 0
        assert self.caching or pool.num_cached == 0
        last = sequence([5])
        self.pages.cache.attach(last, list(self.pages.cache.prefixes(last))[-1])
        self.pages.allocator.allocate(last, self.limits.num_pages - 1)  # evicts all that is cached
        assert (pool.num_free, pool.num_cached) == (0, 0)
        event(f"found: {self.num_found > 0}, copied: {self.num_copies > 0}")


TestPrefixCache = PrefixCacheMachine.TestCase
TestPrefixCache.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, print_blob=True, report_multiple_bugs=False
)


def compute(pages: Pages, one: Sequence) -> Prefix:
    """Begins and computes all that a sequence knows, in a step of its own."""
    pages.cache.begin_step()
    prefix = next(pages.cache.prefixes(one))
    pages.cache.attach(one, prefix)
    num_tokens = len(one.token_ids) - prefix.num_tokens
    pages.allocator.allocate(one, pages.allocator.num_missing(one, num_tokens))
    one.num_computed_tokens += num_tokens
    pages.cache.publish(one)
    pages.cache.end_step()
    return prefix


def test_a_path_is_evicted_from_its_end_and_the_least_recently_used_first():
    pages = Pages(limits(page_size=1, num_pages=1 + 8))
    old, new = sequence([0, 1, 2]), sequence([0, 5, 6])
    for one in (old, new):
        compute(pages, one)
        pages.cache.release(one, keep=True)
    assert (pages.pool.num_cached, pages.pool.num_free) == (5, 3)
    taker = sequence([7])
    compute(pages, taker)
    for count, left_of_old, left_of_new in ((2, 3, 3), (1, 2, 3), (1, 1, 3), (1, 1, 2), (1, 1, 1), (1, 0, 0)):
        pages.allocator.allocate(taker, count)
        found = [
            next(pages.cache.prefixes(sequence([*prompt, 9]))).num_tokens for prompt in ([0, 1, 2], [0, 5, 6])
        ]
        assert found == [left_of_old, left_of_new]
    assert pages.allocator.num_available == 0


def test_what_is_found_is_used_and_is_recent_when_it_is_left():
    pages = Pages(limits(page_size=1, num_pages=1 + 6))
    for prompt in ([1, 1], [2, 2]):
        one = sequence(prompt)
        compute(pages, one)
        pages.cache.release(one, keep=True)
    again = sequence([1, 1, 9])
    assert compute(pages, again).num_tokens == 2
    assert (pages.pool.num_used, pages.pool.num_cached) == (3, 2)
    pages.cache.release(again, keep=True)
    taker = sequence([7])
    compute(pages, taker)
    pages.allocator.allocate(taker, 2)
    assert next(pages.cache.prefixes(sequence([1, 1, 9, 9]))).num_tokens == 3
    assert next(pages.cache.prefixes(sequence([2, 2, 9, 9]))).num_tokens == 0


def test_two_that_computed_the_same_leave_it_once():
    """The last page of a prompt is computed by each, for its last token says what comes next."""
    pages = Pages(limits(page_size=4))
    first, second = sequence([0] * 8), sequence([0] * 8)
    compute(pages, first)
    compute(pages, second)
    assert second.page_ids[0] == first.page_ids[0]
    assert second.page_ids[1] != first.page_ids[1]
    second.token_ids += [7] * 4  # and goes on, with a page that the first does not have
    pages.allocator.allocate(second, 1)
    second.num_computed_tokens += 4
    pages.cache.release(first, keep=True)
    pages.cache.release(second, keep=True)
    assert pages.pool.num_cached == 3
    assert compute(pages, sequence([*second.token_ids, 0])).num_tokens == 12


def test_tokens_that_nobody_knows_are_not_found():
    pages = Pages(limits(page_size=4))
    one = sequence([1, 2, 3])
    compute(pages, one)
    one.num_computed_tokens += 1  # a step in flight, whose token is never read
    pages.cache.release(one, keep=True)
    assert pages.pool.num_cached == 1
    assert compute(pages, sequence([1, 2, 3, 4, 5])).num_tokens == 3


def test_prompts_whose_keys_are_turned_otherwise_share_nothing():
    """Here those of more than four tokens are of a class of their own, by their length."""
    longer = {"rotation_class": lambda prompt_length: prompt_length if prompt_length > 4 else None}
    pages = Pages(limits(page_size=1), **longer)
    for prompt in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]):
        one = sequence(prompt)
        assert compute(pages, one).num_tokens == 0
        pages.cache.release(one, keep=True)
    pages.cache.check_integrity([])
    found = {
        n: next(pages.cache.prefixes(sequence([1, 2, 3, 4, 5, 6, 7][:n]))).num_tokens for n in (3, 4, 5, 6, 7)
    }
    assert found == {3: 2, 4: 3, 5: 4, 6: 5, 7: 0}


def test_what_follows_a_short_prompt_is_of_its_class():
    """Also when it is preempted, and begins again with more tokens than the class has in a prompt."""
    longer = {"rotation_class": lambda prompt_length: prompt_length if prompt_length > 4 else None}
    pages = Pages(limits(page_size=1), **longer)
    one = sequence([1, 2, 3])
    compute(pages, one)
    one.token_ids += [4, 5, 6]
    pages.allocator.allocate(one, 3)
    one.num_computed_tokens += 3
    pages.cache.release(one, keep=True)
    assert next(pages.cache.prefixes(one)).num_tokens == 5
    assert next(pages.cache.prefixes(sequence(one.token_ids))).num_tokens == 0
