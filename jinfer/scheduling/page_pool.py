"""The pages of the KV cache that are free, and those that are in use."""

from collections import deque
from collections.abc import Iterable

NULL_PAGE = 0  # padding writes here and nobody reads it


class PagePool:
    """Gives out page ids 1 to num_pages - 1, each to one owner at a time.

    Pages come back in the order they were freed in, so that a page rests as long as possible before it is used again
    (a prefix cache will find its contents there).
    """

    def __init__(self, num_pages: int) -> None:
        self._num_pages = num_pages
        self._free = deque(range(NULL_PAGE + 1, num_pages))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self._used)

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages, or None and no change if there are not as many."""
        if count > len(self._free):
            return None
        page_ids = [self._free.popleft() for _ in range(count)]
        self._used.update(page_ids)
        return page_ids

    def free(self, page_ids: Iterable[int]) -> None:
        """Takes pages back from their owner. To free a page that nobody has is a fault of ours, and changes nothing."""
        returned = list(page_ids)
        assert self._used.issuperset(returned), f"pages {sorted(set(returned) - self._used)} are not in use"
        assert len(set(returned)) == len(returned), f"a page is freed twice in {returned}"
        self._used.difference_update(returned)
        self._free.extend(returned)

    def check_integrity(self) -> None:
        """Raises AssertionError unless free and used pages are all pages, each once."""
        free = set(self._free)
        assert len(free) == len(self._free), "a page is free twice"
        assert not free & self._used, f"pages {sorted(free & self._used)} are both free and used"
        assert free | self._used == set(range(NULL_PAGE + 1, self._num_pages)), "a page is neither free nor used"
