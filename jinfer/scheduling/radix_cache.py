"""The tokens in the pages of the KV cache: a radix tree over whole pages, for prefixes that requests share.

A node holds a run of pages and the tokens in them; the path from the root spells a prefix. A key is the first
page of a child, with a salt before it, so that requests of different salts share nothing:

    root ── (None, 1, 2, 3, 4) ── pages 7 8 ─┬─ (None, 9, 9, 9, 9) ── page 12
                                             └─ (None, 5, 6) ── page 3, partly filled: a leaf, to be copied
                                             from
         └─ ("a", 1, 2, 3, 4) ── page 5

Sequences lock the path that they use. Pages without a lock are cached: they are found again, or evicted when
pages run out, from the end of the least recently used path (Zheng et al., "SGLang: Efficient Execution of
Structured Language Model Programs", 2024).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from jinfer.scheduling.page_pool import PagePool

MAX_CANDIDATES = 16  # pages that are compared for a copy: children of one node, newest first

Salt = Hashable
Key = tuple[Salt, ...]


class Node:
    """A run of pages, the last part of a prefix. Only a node of one page may have fewer tokens than the page
    holds."""

    __slots__ = ("children", "key", "num_locks", "page_ids", "parent", "step", "token_ids")

    def __init__(
        self, parent: "Node | None", key: Key, token_ids: list[int], page_ids: list[int], step: int
    ) -> None:
        self.parent = parent
        self.key = key
        self.token_ids = token_ids
        self.page_ids = page_ids
        self.children: dict[Key, Node] = {}
        self.num_locks = 0  # of sequences that use the run to its end or beyond
        self.step = step  # the step that writes the pages

    @property
    def is_root(self) -> bool:
        return self.parent is None

    def path(self) -> "Iterator[Node]":
        """The node and those above it, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


@dataclass(frozen=True, eq=False)
class Match:
    """The longest cached prefix: it ends with the first `num_pages` of `node`. Its tokens are on `page_ids`,
    of which `num_unlocked` are cached and not used."""

    node: Node
    num_pages: int
    page_ids: list[int]
    num_unlocked: int


@dataclass(frozen=True, eq=False)
class PartialMatch:
    """The page after a match, whose first `num_tokens` continue it. It is the first page of `node` once the
    match is locked."""

    node: Node
    num_tokens: int


class RadixCache:
    """The tree, and the states of its pages: locked ones are used in the pool, the others cached."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._root = Node(None, (), [], [], 0)
        # In the order in which they lost their last lock. A lock holds the whole path, and unlocking goes up
        # the path, so a node comes before its parent: the first one of all is a leaf.
        self._unlocked: dict[Node, None] = {}

    @property
    def root(self) -> Node:
        return self._root

    @property
    def eviction_order(self) -> tuple[Node, ...]:
        """The nodes without a lock, the next to be evicted first."""
        return tuple(self._unlocked)

    def match(
        self, salt: Salt, token_ids: Sequence[int], max_tokens: int, *, after: Node, start: int = 0
    ) -> Match:
        """The longest cached prefix of `token_ids[:max_tokens]`, in whole pages. Changes nothing.

        The path to `after` is known to hold the first `start` tokens; `page_ids` are those of the pages after
        it.
        """
        node = after
        size = self._page_size
        page_ids: list[int] = []
        num_pages = len(node.page_ids)
        num_unlocked = 0
        while num_pages == len(node.page_ids) and start + size <= max_tokens:
            child = node.children.get((salt, *token_ids[start : start + size]))
            if child is None:
                break
            wanted = token_ids[start : min(max_tokens, start + len(child.token_ids))]
            node = child
            num_pages = _num_equal_pages(child.token_ids, wanted, size)
            page_ids += node.page_ids[:num_pages]
            num_unlocked += 0 if node.num_locks else num_pages
            start += num_pages * size
        return Match(node, num_pages, page_ids, num_unlocked)

    def match_partial(
        self, match: Match, salt: Salt, token_ids: Sequence[int], max_tokens: int, before_step: int
    ) -> PartialMatch | None:
        """The page after the match with the longest common prefix: the candidate for a copy.

        Pages written by `before_step` or later do not count, since pages are copied before that step runs.
        """
        begin = len(match.page_ids) * self._page_size
        wanted = token_ids[begin : min(begin + self._page_size, max_tokens)]
        best = None
        for node, index in self._pages_after(match, salt):
            first = index * self._page_size
            count = _num_equal(node.token_ids[first : first + self._page_size], wanted)
            if node.step < before_step and count > (best.num_tokens if best else 0):
                best = PartialMatch(node, count)
        return best

    def _pages_after(self, match: Match, salt: Salt) -> Iterator[tuple[Node, int]]:
        if match.num_pages < len(match.node.page_ids):
            yield match.node, match.num_pages
            return
        for child in islice(reversed(match.node.children.values()), MAX_CANDIDATES):
            if child.key[0] == salt:
                yield child, 0

    def lock(self, node: Node, num_pages: int) -> Node:
        """Locks the path that ends with the first pages of a node; returns the node that ends there, split
        off."""
        if num_pages < len(node.page_ids):
            node = self._split(node, num_pages)
        for locked in node.path():
            if locked.num_locks == 0:
                self._unlocked.pop(locked, None)  # absent if it was split off a moment ago
                self._pool.reuse(locked.page_ids)
            locked.num_locks += 1
        return node

    def unlock(self, node: Node) -> None:
        """Takes a lock from the path to a node."""
        for locked in node.path():
            locked.num_locks -= 1
            if locked.num_locks == 0:
                self._unlocked[locked] = None
                self._pool.keep(locked.page_ids)

    def extend(
        self, node: Node, salt: Salt, token_ids: list[int], page_ids: list[int], step: int
    ) -> Node | None:
        """Adds used pages after a node. The caller's lock on the node moves to the new one, which is
        returned.

        None, and no change, if the first page is there already: the caller's is another with the same
        contents.
        """
        key = (salt, *token_ids[: self._page_size])
        if key in node.children:
            return None
        child = Node(parent=node, key=key, token_ids=token_ids, page_ids=page_ids, step=step)
        node.children[key] = child
        child.num_locks = 1
        return child

    def evict(self, count: int) -> None:
        """Frees `count` cached pages, which there must be, least recently used first and from the end of a
        path."""
        while count > 0:
            node = next(iter(self._unlocked))
            num_kept = max(0, len(node.page_ids) - count)
            evicted = node.page_ids[num_kept:]
            count -= len(evicted)
            self._pool.evict(evicted)
            del node.page_ids[num_kept:], node.token_ids[num_kept * self._page_size :]
            if not node.page_ids:
                self._remove(node)

    def discard(self, node: Node) -> None:
        """Frees the end of a path, as far as it is unlocked and nothing follows it."""
        for last in list(node.path()):
            if last.num_locks or last.children:
                return
            self._pool.evict(last.page_ids)
            self._remove(last)

    def _remove(self, leaf: Node) -> None:
        assert leaf.parent is not None
        del self._unlocked[leaf], leaf.parent.children[leaf.key]

    def _split(self, node: Node, num_pages: int) -> Node:
        """A new node for the first pages. The old one keeps the rest: it may be where the path of a sequence
        ends."""
        assert node.parent is not None
        num_tokens = num_pages * self._page_size
        upper = Node(node.parent, node.key, node.token_ids[:num_tokens], node.page_ids[:num_pages], node.step)
        upper.num_locks = node.num_locks
        node.parent.children[node.key] = upper
        node.token_ids = node.token_ids[num_tokens:]
        node.page_ids = node.page_ids[num_pages:]
        node.parent = upper
        node.key = (node.key[0], *node.token_ids[: self._page_size])
        upper.children[node.key] = node
        return upper

    def check_integrity(self) -> None:
        """Raises AssertionError unless the tree is sound, and its pages have the states that its locks give
        them."""
        nodes = list(self._nodes())
        for node in nodes:
            self._check(node)
        unlocked = [node for node in nodes if not node.num_locks]
        assert set(unlocked) == set(self._unlocked), (
            "a node is unlocked and cannot be evicted, or the reverse"
        )
        order: dict[Node | None, int] = {node: index for index, node in enumerate(self._unlocked)}
        assert all(order[node] < order.get(node.parent, len(order)) for node in unlocked), (
            "a parent is evicted first"
        )
        assert sum(len(node.page_ids) for node in unlocked) == self._pool.num_cached, (
            "a cached page is in no node"
        )
        page_ids = [page_id for node in nodes for page_id in node.page_ids]
        assert len(page_ids) == len(set(page_ids)), "a page is in two nodes"

    def check_path(self, end: Node, salt: Salt, token_ids: Sequence[int], page_ids: list[int]) -> None:
        """Raises AssertionError unless the path to a node is on these pages and says what they hold."""
        path = list(end.path())[::-1]
        spelled = [token_id for node in path for token_id in node.token_ids]
        assert spelled == list(token_ids[: len(spelled)]), "a page holds other tokens"
        assert all(node.key[0] == salt for node in path), "a page of another salt"
        assert [page_id for node in path for page_id in node.page_ids] == page_ids, "a path on other pages"

    def check_locks(self, ends: Iterable[Node]) -> None:
        """Raises AssertionError unless the locks are those of the paths to these nodes, and no others."""
        num_locks = Counter(node for end in ends for node in end.path())
        assert all(node.num_locks == num_locks[node] for node in self._nodes()), "a lock is lost, or too much"

    def _nodes(self) -> Iterator[Node]:
        below = list(self._root.children.values())
        while below:
            node = below.pop()
            yield node
            below += node.children.values()

    def _check(self, node: Node) -> None:
        num_tokens = len(node.token_ids)
        size = self._page_size
        assert node.parent is not None
        assert node.page_ids, "a node without pages"
        assert node.parent.children[node.key] is node, "a node is not found where it is"
        assert node.key[1:] == tuple(node.token_ids[:size]), "a key is not the first page"
        assert node.parent.is_root or node.key[0] == node.parent.key[0], "a path of two salts"
        is_partial = num_tokens < size
        assert num_tokens == size * len(node.page_ids) or (
            is_partial and num_tokens and len(node.page_ids) == 1
        )
        assert not (is_partial and node.children), "something follows a page that is not full"
        assert node.num_locks >= sum(child.num_locks for child in node.children.values()), (
            "a lock without its path"
        )


def _num_equal(some: Sequence[int], others: Sequence[int]) -> int:
    """The number of tokens that are equal from the start."""
    count = 0
    for token_id, other in zip(some, others, strict=False):
        if token_id != other:
            break
        count += 1
    return count


def _num_equal_pages(some: list[int], others: Sequence[int], page_size: int) -> int:
    """The number of whole pages of tokens that are equal from the start."""
    length = min(len(some), len(others)) // page_size * page_size
    if some[:length] == others[:length]:
        return length // page_size
    return _num_equal(some, others) // page_size
