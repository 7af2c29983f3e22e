"""The pages of the KV cache by state (free, used, or cached for their contents), and their allocation."""

from collections import deque
from collections.abc import Callable, Collection, Iterable

from jinfer.config import EngineLimits
from jinfer.requests.request import Sequence

NULL_PAGE = 0  # padding writes here, and no sequence reads it


class PagePool:
    """Gives out page ids 1 to num_pages - 1. Each page is in one of three states:

        free --allocate--> used --free--> free
                           used --keep--> cached --reuse--> used
                                          cached --evict--> free

    A used page has at least one owner, a cached one has none and holds something that may be wanted again.
    Pages come back in the order they were freed in, so that a page rests as long as possible before it is
    used again.
    """

    def __init__(self, num_pages: int) -> None:
        self._num_pages = num_pages
        self._free = deque(range(NULL_PAGE + 1, num_pages))
        self._used: set[int] = set()
        self._cached: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self._used)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    def is_cached(self, page_id: int) -> bool:
        return page_id in self._cached

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages, or None and no change if there are not as many free ones."""
        if count > len(self._free):
            return None
        page_ids = [self._free.popleft() for _ in range(count)]
        self._used.update(page_ids)
        return page_ids

    def free(self, page_ids: Iterable[int]) -> None:
        """Takes used pages back. Freeing a page that is not used is a bug, and changes nothing."""
        returned = list(page_ids)
        _move(returned, self._used, "used")
        self._free.extend(returned)

    def keep(self, page_ids: Collection[int]) -> None:
        """Used pages lose their last owner and keep what they hold."""
        _move(page_ids, self._used, "used")
        self._cached.update(page_ids)

    def reuse(self, page_ids: Collection[int]) -> None:
        """Cached pages get an owner."""
        _move(page_ids, self._cached, "cached")
        self._used.update(page_ids)

    def evict(self, page_ids: Collection[int]) -> None:
        """Cached pages become free."""
        _move(page_ids, self._cached, "cached")
        self._free.extend(page_ids)

    def check_integrity(self) -> None:
        """Raises AssertionError unless free, used and cached pages are all pages, each once."""
        page_ids = [*self._free, *self._used, *self._cached]
        assert len(page_ids) == len(set(page_ids)), "a page has two states"
        assert set(page_ids) == set(range(NULL_PAGE + 1, self._num_pages)), (
            "a page is neither free nor used nor cached"
        )


class PageAllocator:
    """Appends pages to running sequences. Cached pages are evicted when none is free."""

    def __init__(self, limits: EngineLimits, pool: PagePool, *, evict: Callable[[int], None]) -> None:
        """`evict` makes a number of cached pages free, which there must be."""
        self._limits = limits
        self._pool = pool
        self._evict = evict

    @property
    def num_available(self) -> int:
        """Pages that can be allocated: free ones, and cached ones after their eviction."""
        return self._pool.num_free + self._pool.num_cached

    def num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Pages that a running sequence needs for `num_tokens` more."""
        return self._limits.pages_for(sequence.num_computed_tokens + num_tokens) - len(sequence.page_ids)

    def allocate(self, sequence: Sequence, count: int) -> list[int]:
        """Appends own pages to a running sequence; at least `count` must be available."""
        if count > self._pool.num_free:
            self._evict(count - self._pool.num_free)
        page_ids = self._pool.allocate(count)
        assert page_ids is not None
        sequence.page_ids.extend(page_ids)
        return page_ids


def _move(page_ids: Collection[int], source: set[int], state: str) -> None:
    """Takes pages out of a state that all of them must be in, each once."""
    assert source.issuperset(page_ids), f"pages {sorted(set(page_ids) - source)} are not {state}"
    assert len(set(page_ids)) == len(page_ids), f"a page is named twice in {page_ids}"
    source.difference_update(page_ids)
