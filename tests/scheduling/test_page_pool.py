"""The page pool against a model of it: who holds which page."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jinfer.scheduling.page_pool import NULL_PAGE, PagePool


class PagePoolMachine(RuleBasedStateMachine):
    """Owners take and give back pages in any order, whole or in parts."""

    @initialize(num_pages=st.integers(2, 12))
    def start(self, num_pages: int) -> None:
        self.pool, self.num_pages = PagePool(num_pages), num_pages
        self.owners: list[list[int]] = []

    @property
    def held(self) -> list[int]:
        return [page_id for pages in self.owners for page_id in pages]

    @rule(count=st.integers(0, 13))
    def allocate(self, count: int) -> None:
        num_free = self.num_pages - 1 - len(self.held)
        page_ids = self.pool.allocate(count)
        if count > num_free:
            assert page_ids is None
            return
        assert page_ids is not None
        assert len(page_ids) == len(set(page_ids)) == count
        assert not set(page_ids) & set(self.held), "a page was given out twice"
        assert all(NULL_PAGE < page_id < self.num_pages for page_id in page_ids)
        self.owners.append(page_ids)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        pages = self.owners.pop(data.draw(st.integers(0, len(self.owners) - 1), label="owner"))
        num_kept = data.draw(st.integers(0, len(pages)), label="pages kept")
        self.pool.free(pages[num_kept:])
        self.owners.append(pages[:num_kept])

    @rule(data=st.data())
    def free_what_nobody_holds(self, data: st.DataObject) -> None:
        """The null page, a free page, and one that does not exist."""
        not_held = sorted(set(range(self.num_pages + 1)) - set(self.held))
        page_id = data.draw(st.sampled_from(not_held), label="page")
        with pytest.raises((KeyError, AssertionError)):
            self.pool.free([page_id])

    @invariant()
    def every_page_has_one_place(self) -> None:
        self.pool.check_integrity()
        assert self.pool.num_used == len(self.held)
        assert self.pool.num_free == self.num_pages - 1 - len(self.held)

    def teardown(self) -> None:
        self.pool.free(self.held)
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
    with pytest.raises(AssertionError, match="neither free nor used"):
        pool.check_integrity()


def test_check_integrity_finds_a_page_with_two_places():
    pool = PagePool(4)
    pages = pool.allocate(1)
    assert pages is not None
    pool._free.extend(pages)
    with pytest.raises(AssertionError, match="both free and used"):
        pool.check_integrity()
