"""The page pool against a model of it: who holds which page, and which are kept without an owner."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jinfer.scheduling.page_pool import NULL_PAGE, PagePool


class PagePoolMachine(RuleBasedStateMachine):
    """Owners take and give back pages in any order, whole or in parts, or leave them to be found again."""

    @initialize(num_pages=st.integers(2, 12))
    def start(self, num_pages: int) -> None:
        self.pool, self.num_pages = PagePool(num_pages), num_pages
        self.owners: list[list[int]] = []
        self.kept: list[list[int]] = []

    @property
    def cached(self) -> list[int]:
        return [page_id for pages in self.kept for page_id in pages]

    @property
    def held(self) -> list[int]:
        return [page_id for pages in self.owners for page_id in pages]

    @rule(count=st.integers(0, 13))
    def allocate(self, count: int) -> None:
        num_free = self.num_pages - 1 - len(self.held) - len(self.cached)
        page_ids = self.pool.allocate(count)
        if count > num_free:
            assert page_ids is None
            return
        assert page_ids is not None
        assert len(page_ids) == len(set(page_ids)) == count
        assert not set(page_ids) & {*self.held, *self.cached}, "a page was given out twice"
        assert all(NULL_PAGE < page_id < self.num_pages for page_id in page_ids)
        self.owners.append(page_ids)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        pages = self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1), label="owner"))
        num_kept = data.draw(st.integers(0, len(pages)), label="pages kept")
        self.pool.free(pages[num_kept:])
        self.owners.append(pages[:num_kept])

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        pages = self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1), label="owner"))
        self.pool.keep(pages)
        self.kept.append(pages)

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), is_wanted=st.booleans())
    def reuse_or_evict(self, data: st.DataObject, is_wanted: bool) -> None:
        pages = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1), label="kept"))
        if is_wanted:
            self.pool.reuse(pages)
            self.owners.append(pages)
        else:
            self.pool.evict(pages)

    @rule(data=st.data())
    def free_what_nobody_holds(self, data: st.DataObject) -> None:
        """The null page, a free page, a cached one, and one that does not exist."""
        not_held = sorted(set(range(self.num_pages + 1)) - set(self.held))
        page_id = data.draw(st.sampled_from(not_held), label="page")
        for change in (self.pool.free, self.pool.keep):
            with pytest.raises(AssertionError, match="not used"):
                change([page_id])

    @rule(data=st.data())
    def take_what_is_not_cached(self, data: st.DataObject) -> None:
        not_cached = sorted(set(range(self.num_pages + 1)) - set(self.cached))
        page_id = data.draw(st.sampled_from(not_cached), label="page")
        for change in (self.pool.reuse, self.pool.evict):
            with pytest.raises(AssertionError, match="not cached"):
                change([page_id])

    @invariant()
    def every_page_has_one_place(self) -> None:
        self.pool.check_integrity()
        assert self.pool.num_used == len(self.held)
        assert self.pool.num_cached == len(self.cached)
        assert set(filter(self.pool.is_cached, range(self.num_pages))) == set(self.cached)
        assert self.pool.num_free == self.num_pages - 1 - len(self.held) - len(self.cached)

    def teardown(self) -> None:
        self.pool.free(self.held)
        self.pool.evict(self.cached)
        assert sorted(self.pool.allocate(self.num_pages - 1) or []) == list(range(1, self.num_pages))


TestPagePool = PagePoolMachine.TestCase
TestPagePool.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, print_blob=True)


def test_a_page_rests_as_long_as_possible():
    pool = PagePool(4)
    first = pool.allocate(1)
    assert first is not None
    pool.free(first)
    assert pool.allocate(3) == [2, 3, *first]


def test_nothing_is_freed_twice():
    pool = PagePool(4)
    pages = pool.allocate(2)
    assert pages is not None
    pool.free(pages)
    with pytest.raises((KeyError, AssertionError)):
        pool.free(pages)
    pool.check_integrity()


def test_check_integrity_finds_a_lost_page():
    pool = PagePool(4)
    pool._free.popleft()
    with pytest.raises(AssertionError, match="neither free nor used nor cached"):
        pool.check_integrity()


def test_check_integrity_finds_a_page_with_two_states():
    pool = PagePool(4)
    pages = pool.allocate(1)
    assert pages is not None
    pool._free.extend(pages)
    with pytest.raises(AssertionError, match="a page has two states"):
        pool.check_integrity()
