"""The masks of all structured rows of a step, and their tokens."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jinfer.requests.token_masker import TokenMasker
from jinfer.text.grammar.grammar_masker import GrammarMasker, check_words
from jinfer.text.grammar.library import llguidance

# Three quarters of the cores, for a server has other work: masks of strings of a limited length take 0.3 to
# 0.8 ms each (docs/decisions/0033).
NUM_THREADS = max(1, min(16, 3 * (os.cpu_count() or 1) // 4))


def fill_masks(maskers: Sequence[TokenMasker], words: NDArray[np.uint32]) -> list[bool]:
    """Write the mask of each masker into its row of `words`, uint32[rows, words], as its `fill` does; what
    `fill` returns, for each.

    The rows of grammars are filled in one call without Python's lock, those that share a lexer by one thread
    as far as possible: each would wait for the others.
    """
    check_words(words)
    assert len(maskers) <= len(words)
    rows = [
        (masker.lexer, row, masker)
        for row, masker in enumerate(maskers)
        if isinstance(masker, GrammarMasker) and masker.error is None
    ]
    if rows:
        grammars = [(masker.matcher(), row) for _, row, masker in sorted(rows, key=itemgetter(0, 1))]
        row_bytes = words.shape[1] * words.itemsize
        _executor().unsafe_compute_mask_ptr(grammars, words.ctypes.data, row_bytes, len(words))
    has_tokens = words[: len(maskers)].max(axis=1) > 0
    return [
        masker.is_usable(row, bool(has_any)) if isinstance(masker, GrammarMasker) else masker.fill(row)
        for masker, row, has_any in zip(maskers, words, has_tokens, strict=False)
    ]


def accept_tokens(tokens: Iterable[tuple[TokenMasker, int]]) -> None:
    """Gives each masker a token, as its `accept` does: grammars all at once, without Python's lock."""
    of_grammars = []
    for masker, token_id in tokens:
        if isinstance(masker, GrammarMasker):
            of_grammars.append((masker.matcher(), token_id))
        else:
            masker.accept(token_id)
    if of_grammars:
        _executor().consume_token_par(of_grammars)


@cache
def _executor() -> Any:
    """llguidance's threads, which keep nothing between calls."""
    return llguidance().LLExecutor(NUM_THREADS)
