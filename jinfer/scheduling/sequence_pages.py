"""Which pages each running sequence has: some that it shares through the prefix cache, and then its own.

    page_ids of a sequence    7 8 12 | 31 4        num_shared_pages = 3
                              shared | own

A prompt's pages are shared as soon as they are planned: steps run in order on the device, and within a step all keys
and values of a layer are written before they are read. The pages of the output follow when the sequence ends or is
preempted, so that decoding has nothing to do with the tree.

Nothing is ever written to a shared page. Where a cached page has the next tokens only in part, a sequence gets a copy
of it (copy on write) and goes on from there, if that saves as much as half a page of tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from jinfer.config import Limits
from jinfer.requests.request import Sequence
from jinfer.scheduling.page_pool import PagePool
from jinfer.scheduling.radix_cache import Match, Node, PartialMatch, RadixCache, Salt

RotationClass = Callable[[int], int | None]
"""Of a prompt's length: equal where keys of the same tokens at the same positions are turned alike. Where rotary
embedding depends on the length of the prompt, others must not share them (`RopeConfig.rotation_class`)."""

MIN_COPIED_SHARE = 1 / 2
"""Of a page: a copy is a call of its own, some 0.15 ms on an H200, in which a model of 8B computes seven tokens and a
smaller one many more. So copies of pages of 16 tokens hardly pay, and those of larger ones do."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The beginning of a sequence that need not be computed: whole pages to share, and perhaps a page to copy."""

    match: Match
    partial: PartialMatch | None
    num_tokens: int

    @property
    def num_shared_pages(self) -> int:
        return len(self.match.page_ids)

    @property
    def num_unlocked(self) -> int:
        """Cached pages that are not available any more once the prefix is taken."""
        copied = self.partial is not None and self.partial.node.num_locks == 0
        return self.match.num_unlocked + copied


def rotated_by_position(prompt_length: int) -> None:
    """The class of all prompts, where keys are turned by their positions alone."""


class SequencePages:
    """Gives sequences their pages and takes them back. Cached pages are evicted when none is free."""

    def __init__(
        self, limits: Limits, *, prefix_caching: bool, rotation_class: RotationClass = rotated_by_position
    ) -> None:
        """Without `prefix_caching` nothing is ever put into the cache."""
        self._limits = limits
        self._prefix_caching = prefix_caching
        self._rotation_class = rotation_class
        self._min_copied = max(1, int(limits.page_size * MIN_COPIED_SHARE))
        self.pool = PagePool(limits.num_pages)
        self._cache = RadixCache(self.pool, limits.page_size)
        self._step = 0
        self._copied: list[Node] = []  # in the step that is planned now

    @property
    def num_available(self) -> int:
        """Pages that can be had: free ones, and cached ones after their eviction."""
        return self.pool.num_free + self.pool.num_cached

    def begin_step(self) -> None:
        """To be called before anything is planned in a step."""
        self._step += 1

    def end_step(self) -> None:
        """To be called when a step is planned: until then, what it copies stays where it is."""
        for node in self._copied:
            self._cache.unlock(node)
        self._copied.clear()

    def num_missing(self, sequence: Sequence, num_tokens: int) -> int:
        """Pages that a running sequence needs for `num_tokens` more."""
        return self._limits.pages_for(sequence.num_computed_tokens + num_tokens) - len(sequence.page_ids)

    def give(self, sequence: Sequence, count: int) -> list[int]:
        """New pages of its own for a running sequence; there must be as many available."""
        self._cache.evict(count - self.pool.num_free)
        page_ids = self.pool.allocate(count)
        assert page_ids is not None
        sequence.page_ids.extend(page_ids)
        return page_ids

    def prefixes(self, sequence: Sequence) -> Iterator[Prefix]:
        """What a waiting sequence may begin with, best first: with a page to copy, if there is one, and without.

        Its last token is never in it: the step must compute one to know the next.
        """
        salt, token_ids, most = self._salt(sequence), sequence.token_ids, len(sequence.token_ids) - 1
        match = self._cache.match(salt, token_ids, most, behind=self._cache.root)
        num_shared = len(match.page_ids) * self._limits.page_size
        partial = self._cache.match_in_part(match, salt, token_ids, most, before_step=self._step)
        if partial and partial.num_tokens >= self._min_copied:
            yield Prefix(match, partial, num_shared + partial.num_tokens)
        yield Prefix(match, None, num_shared)

    def begin(self, sequence: Sequence, prefix: Prefix) -> int | None:
        """Gives a sequence its prefix. Returns the page that has to be copied to the next page it gets, if any."""
        match, partial = prefix.match, prefix.partial
        sequence.cache_node = self._cache.lock(match.node, match.num_pages)
        sequence.page_ids = list(match.page_ids)
        sequence.num_shared_pages = prefix.num_shared_pages
        sequence.num_computed_tokens = prefix.num_tokens
        if partial is None:
            return None
        source = self._cache.lock(partial.node, 1)
        self._copied.append(source)
        return source.page_ids[0]

    def share(self, sequence: Sequence) -> None:
        """Lets others use the full pages of what a running sequence has computed, or will have with this step."""
        num_tokens = min(sequence.num_computed_tokens, len(sequence.token_ids))
        self._extend(sequence, num_tokens - num_tokens % self._limits.page_size)

    def release(self, sequence: Sequence, *, keep: bool) -> None:
        """Takes all pages back. With `keep` the cache knows afterwards what is in them, and without it forgets of the
        sequence's prefix what nobody else uses."""
        if keep and self._prefix_caching:
            self._keep(sequence)
        self.pool.free(sequence.page_ids[sequence.num_shared_pages :])
        self._cache.unlock(sequence.cache_node)
        if not keep:
            self._cache.forget(sequence.cache_node)
        sequence.page_ids, sequence.num_shared_pages, sequence.cache_node = [], 0, None
        sequence.num_computed_tokens = 0

    def _keep(self, sequence: Sequence) -> None:
        """Shares all that is known of a sequence that leaves: full pages, and of the last one what may be copied.

        Positions of tokens that a step still samples, and nobody will read, are not known.
        """
        num_tokens = min(sequence.num_computed_tokens, len(sequence.token_ids))
        num_behind = num_tokens % self._limits.page_size
        self._exchange(sequence, num_tokens - num_behind)
        self._extend(sequence, num_tokens - num_behind)
        if num_behind >= self._min_copied:
            self._extend(sequence, num_tokens)

    def _salt(self, sequence: Sequence) -> Salt:
        """What must be equal for two to share pages, besides the tokens."""
        return sequence.params.cache_salt, self._rotation_class(len(sequence.request.prompt_token_ids))

    def _exchange(self, sequence: Sequence, num_tokens: int) -> None:
        """Takes the cache's pages for those of the sequence's own that have the same contents."""
        first, node, salt = sequence.num_shared_pages, sequence.cache_node, self._salt(sequence)
        start = first * self._limits.page_size
        match = self._cache.match(salt, sequence.token_ids, num_tokens, behind=node, start=start)
        if not match.page_ids:
            return
        last = first + len(match.page_ids)
        sequence.cache_node = self._cache.lock(match.node, match.num_pages)
        self._cache.unlock(node)
        self.pool.free(sequence.page_ids[first:last])
        sequence.page_ids[first:last] = match.page_ids
        sequence.num_shared_pages = last

    def _extend(self, sequence: Sequence, num_tokens: int) -> None:
        """Shares a sequence's own pages up to a number of tokens, unless the cache has the first of them already."""
        first, last = sequence.num_shared_pages, self._limits.pages_for(num_tokens)
        if first == last or not self._prefix_caching:
            return
        token_ids = sequence.token_ids[first * self._limits.page_size : num_tokens]
        page_ids, salt = sequence.page_ids[first:last], self._salt(sequence)
        node = self._cache.extend(sequence.cache_node, salt, token_ids, page_ids, self._step)
        if node is not None:
            sequence.num_shared_pages, sequence.cache_node = last, node

    def check_integrity(self, running: Iterable[Sequence]) -> None:
        """Raises AssertionError unless the pages that are used are those of the running sequences, each for its tokens,
        and no page of a sequence's own is known to anybody else."""
        self.pool.check_integrity()
        self._cache.check_integrity()
        running = list(running)
        held = [page_id for sequence in running for page_id in sequence.page_ids]
        assert len(set(held)) == self.pool.num_used, "a page is used by nobody"
        num_holders = Counter(held)
        for sequence in running:
            shared, own = sequence.page_ids[: sequence.num_shared_pages], sequence.page_ids[sequence.num_shared_pages :]
            assert all(num_holders[page_id] == 1 for page_id in own), "two have the same page for their own"
            self._cache.check_path(sequence.cache_node, self._salt(sequence), sequence.token_ids, shared)
        self._cache.check_locks(sequence.cache_node for sequence in running)
