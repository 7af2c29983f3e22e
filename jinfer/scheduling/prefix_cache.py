"""The prefix cache: the pages that sequences share, found by their tokens and kept after their end.

A running sequence has first the pages that it shares through the cache, then its own.

    page_ids of a sequence    7 8 12 | 31 4        num_shared_pages = 3
                              shared | own

A prompt's pages are shared as soon as they are planned: steps run in order on the device, and within a step
all keys and values of a layer are written before they are read. The pages of the output follow when the
sequence ends or is preempted, so that decoding has nothing to do with the tree.

Nothing is ever written to a shared page. Where only the first tokens of a cached page match, a sequence gets
a copy of it (copy on write) and continues from there, if that saves at least half a page of tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jinfer.config import EngineLimits
from jinfer.requests.request import Sequence
from jinfer.scheduling.page_pool import PagePool
from jinfer.scheduling.radix_cache import Match, Node, PartialMatch, RadixCache, Salt

RotationClass = Callable[[int], int | None]
"""Maps a prompt's length to a class: prompts of one class have the same keys for the same tokens at the same
positions. Others must not share pages, since rotary embedding may depend on the length
(`RopeConfig.rotation_class`)."""

MIN_COPIED_SHARE = 1 / 2
"""Share of a page that must match for a copy to pay. A copy is a call of its own, some 0.15 ms on an H200:
seven tokens of a model of 8B, and many more of a smaller one. Copies of pages of 16 tokens hardly pay, those
of larger ones do."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a sequence that need not be computed: whole pages to share, and perhaps a page to
    copy."""

    match: Match
    partial: PartialMatch | None
    num_tokens: int

    @property
    def num_shared_pages(self) -> int:
        return len(self.match.page_ids)

    @property
    def num_unlocked(self) -> int:
        """Cached pages that stop being available once the prefix is attached."""
        copied = self.partial is not None and self.partial.node.num_locks == 0
        return self.match.num_unlocked + copied


def rotated_by_position(prompt_length: int) -> None:
    """One class for all prompts, where keys depend on their positions alone."""


class PrefixCache:
    """Finds, shares and keeps the pages of sequences by their tokens. Owns the tree of cached pages. A step
    is planned between `begin_step` and `end_step`."""

    def __init__(
        self,
        limits: EngineLimits,
        pool: PagePool,
        *,
        is_enabled: bool,
        rotation_class: RotationClass = rotated_by_position,
    ) -> None:
        """The cache stays empty unless `is_enabled`."""
        self._limits = limits
        self._pool = pool
        self._is_enabled = is_enabled
        self._rotation_class = rotation_class
        self._min_copied = max(1, int(limits.page_size * MIN_COPIED_SHARE))
        self.tree = RadixCache(pool, limits.page_size)
        self._step = 0
        self._copied: list[Node] = []  # by the step that is planned now

    def begin_step(self) -> None:
        """Starts a step; comes before anything is planned in it."""
        self._step += 1

    def end_step(self) -> None:
        """Ends the planning of a step; until then, the pages that it copies stay where they are."""
        for node in self._copied:
            self.tree.unlock(node)
        self._copied.clear()

    def prefixes(self, sequence: Sequence) -> Iterator[Prefix]:
        """Cached prefixes of a waiting sequence, best first: with a page to copy, if there is one, and
        without.

        The last token is never part of one: the step must compute it to know the next. Nor is any where the
        prompt's own log probabilities are wanted.
        """
        salt = self._salt(sequence)
        token_ids = sequence.token_ids
        max_tokens = 0 if sequence.scores_prompt else len(token_ids) - 1
        match = self.tree.match(salt=salt, token_ids=token_ids, max_tokens=max_tokens, after=self.tree.root)
        num_shared = len(match.page_ids) * self._limits.page_size
        partial = self.tree.match_partial(
            match, salt=salt, token_ids=token_ids, max_tokens=max_tokens, before_step=self._step
        )
        if partial and partial.num_tokens >= self._min_copied:
            yield Prefix(match, partial, num_shared + partial.num_tokens)
        yield Prefix(match, None, num_shared)

    def attach(self, sequence: Sequence, prefix: Prefix) -> int | None:
        """Begins a sequence with a prefix. Returns the page to copy into the next page that it gets, if
        any."""
        match, partial = prefix.match, prefix.partial
        sequence.cache_node = self.tree.lock(match.node, match.num_pages)
        sequence.page_ids = list(match.page_ids)
        sequence.num_shared_pages = prefix.num_shared_pages
        sequence.num_computed_tokens = prefix.num_tokens
        if partial is None:
            return None
        source = self.tree.lock(partial.node, 1)
        self._copied.append(source)
        return source.page_ids[0]

    def publish(self, sequence: Sequence) -> None:
        """Caches the full pages that a running sequence has computed, or will have with the step that is
        planned."""
        num_tokens = min(sequence.num_computed_tokens, len(sequence.token_ids))
        self._extend(sequence, num_tokens - num_tokens % self._limits.page_size)

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """Takes all pages back. `keep=True` caches the computed pages, `keep=False` also evicts an unshared
        prefix."""
        if keep and self._is_enabled:
            self._publish_all(sequence)
        self._pool.free(sequence.page_ids[sequence.num_shared_pages :])
        self.tree.unlock(sequence.cache_node)
        if not keep:
            self.tree.discard(sequence.cache_node)
        sequence.page_ids = []
        sequence.num_shared_pages = 0
        sequence.cache_node = None
        sequence.num_computed_tokens = 0

    def _publish_all(self, sequence: Sequence) -> None:
        """Caches the pages of a sequence that leaves: the full ones, and the last one if it may be copied.

        Positions of tokens that a step still samples are left out, since the host never reads them.
        """
        num_tokens = min(sequence.num_computed_tokens, len(sequence.token_ids))
        num_in_last_page = num_tokens % self._limits.page_size
        self._deduplicate(sequence, num_tokens - num_in_last_page)
        self._extend(sequence, num_tokens - num_in_last_page)
        if num_in_last_page >= self._min_copied:
            self._extend(sequence, num_tokens)

    def _salt(self, sequence: Sequence) -> Salt:
        """Must be equal, besides the tokens, for two sequences to share pages."""
        return sequence.params.cache_salt, self._rotation_class(len(sequence.request.prompt_token_ids))

    def _deduplicate(self, sequence: Sequence, num_tokens: int) -> None:
        """Replaces the sequence's own pages by the cache's pages of the same contents."""
        first, node = sequence.num_shared_pages, sequence.cache_node
        start = first * self._limits.page_size
        match = self.tree.match(
            salt=self._salt(sequence),
            token_ids=sequence.token_ids,
            max_tokens=num_tokens,
            after=node,
            start=start,
        )
        if not match.page_ids:
            return
        last = first + len(match.page_ids)
        sequence.cache_node = self.tree.lock(match.node, match.num_pages)
        self.tree.unlock(node)
        self._pool.free(sequence.page_ids[first:last])
        sequence.page_ids[first:last] = match.page_ids
        sequence.num_shared_pages = last

    def _extend(self, sequence: Sequence, num_tokens: int) -> None:
        """Caches a sequence's own pages up to a number of tokens, unless the cache has the first of them
        already."""
        first = sequence.num_shared_pages
        last = self._limits.pages_for(num_tokens)
        if first == last or not self._is_enabled:
            return
        token_ids = sequence.token_ids[first * self._limits.page_size : num_tokens]
        page_ids = sequence.page_ids[first:last]
        salt = self._salt(sequence)
        node = self.tree.extend(
            sequence.cache_node, salt=salt, token_ids=token_ids, page_ids=page_ids, step=self._step
        )
        if node is not None:
            sequence.num_shared_pages = last
            sequence.cache_node = node

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raises AssertionError unless the used pages are those of the running sequences, each for its
        tokens, and a sequence's own pages belong to it alone."""
        self._pool.check_integrity()
        self.tree.check_integrity()
        running = list(running)
        held = [page_id for sequence in running for page_id in sequence.page_ids]
        assert len(set(held)) == self._pool.num_used, "a used page belongs to no sequence"
        num_holders = Counter(held)
        for sequence in running:
            shared = sequence.page_ids[: sequence.num_shared_pages]
            own = sequence.page_ids[sequence.num_shared_pages :]
            assert all(num_holders[page_id] == 1 for page_id in own), "two sequences own the same page"
            self.tree.check_path(
                sequence.cache_node, salt=self._salt(sequence), token_ids=sequence.token_ids, page_ids=shared
            )
        self.tree.check_locks(sequence.cache_node for sequence in running)
