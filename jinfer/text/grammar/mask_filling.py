"""The masks of all structured rows of a step, and their tokens."""

import heapq
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jinfer.requests.token_masker import TokenMasker
from jinfer.text.grammar.grammar_masker import GrammarMasker, Matcher, check_words
from jinfer.text.grammar.library import llguidance

# Three quarters of the cores, for a server has other work: masks of strings of a limited length take 0.3 to
# 0.8 ms each (docs/decisions/0033).
NUM_THREADS = max(1, min(16, 3 * (os.cpu_count() or 1) // 4))


def fill_masks(maskers: Sequence[TokenMasker], words: NDArray[np.uint32]) -> list[bool]:
    """Write the mask of each masker into its row of `words`, uint32[rows, words], as its `fill` does; what
    `fill` returns, for each. The rows of grammars are filled by several threads, without Python's lock."""
    check_words(words)
    assert len(maskers) <= len(words)
    row_bytes, address, num_rows = words.shape[1] * words.itemsize, words.ctypes.data, len(words)
    _on_threads(
        [
            (masker, row)
            for row, masker in enumerate(maskers)
            if isinstance(masker, GrammarMasker) and masker.error is None
        ],
        lambda thread, rows: thread.unsafe_compute_mask_ptr(rows, address, row_bytes, num_rows),
    )
    has_tokens = words[: len(maskers)].max(axis=1) > 0
    return [
        masker.is_usable(row, bool(has_any)) if isinstance(masker, GrammarMasker) else masker.fill(row)
        for masker, row, has_any in zip(maskers, words, has_tokens, strict=False)
    ]


def accept_tokens(tokens: Iterable[tuple[TokenMasker, int]]) -> None:
    """Gives each masker a token, as its `accept` does: grammars by several threads, without Python's lock."""
    of_grammars = []
    for masker, token_id in tokens:
        if isinstance(masker, GrammarMasker):
            of_grammars.append((masker, token_id))
        else:
            masker.accept(token_id)
    _on_threads(of_grammars, lambda thread, accepted: thread.consume_token_par(accepted))


def _on_threads(
    rows: Sequence[tuple[GrammarMasker, int]], run: Callable[[Any, list[tuple[Matcher, int]]], object]
) -> None:
    """Calls `run(thread, pairs)` for each thread with pairs of its own, of a masker's matcher and its number.

    Those that share a lexer are one thread's: another one would wait for its lock at each of them.
    """
    of_lexers: dict[Hashable, list[tuple[Matcher, int]]] = {}
    for masker, number in rows:
        of_lexers.setdefault(masker.lexer, []).append((masker.matcher(), number))
    first, *others = _shared_out(list(of_lexers.values()))
    running = [_pool().submit(run, _thread(number), pairs) for number, pairs in enumerate(others, start=1)]
    if first:
        run(_thread(0), first)
    for each in running:
        each.result()


def _shared_out(groups: list[list[tuple[Matcher, int]]]) -> list[list[tuple[Matcher, int]]]:
    """The groups, joined to one list for each thread that gets any, and at least one: the largest first, each
    to the thread that has the least."""
    joined: list[list[tuple[Matcher, int]]] = [[] for _ in range(max(1, min(NUM_THREADS, len(groups))))]
    sizes = [(0, index) for index in range(len(joined))]
    for group in sorted(groups, key=len, reverse=True):
        size, index = sizes[0]
        heapq.heapreplace(sizes, (size + len(group), index))
        joined[index] += group
    return joined


@cache
def _thread(number: int) -> Any:
    """llguidance's thread of this number, an executor of its own: among the threads of one executor it shares
    rows out by halves, which divide a lexer's. It keeps nothing between calls."""
    return llguidance().LLExecutor(1)


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads that wait for those of llguidance."""
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="jinfer-masks")
