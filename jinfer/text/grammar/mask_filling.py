"""The masks of all structured rows of a step."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jinfer.requests.token_masker import TokenMasker
from jinfer.text.grammar.grammar_masker import GrammarMasker, check_words
from jinfer.text.grammar.library import llguidance

NUM_THREADS = 1  # more are no faster on few cores, and the host has other work (docs/decisions/0033)


def fill_masks(maskers: Sequence[TokenMasker], words: NDArray[np.uint32]) -> list[bool]:
    """Write the mask of each masker into its row of `words`, uint32[rows, words], as its `fill` does; what
    `fill` returns, for each.

    The rows of grammars are filled in one call without Python's lock.
    """
    check_words(words)
    assert len(maskers) <= len(words)
    grammars = [
        (masker.matcher(), row)
        for row, masker in enumerate(maskers)
        if isinstance(masker, GrammarMasker) and masker.error is None
    ]
    if grammars:
        row_bytes = words.shape[1] * words.itemsize
        _executor().unsafe_compute_mask_ptr(grammars, words.ctypes.data, row_bytes, len(words))
    return [
        masker.is_usable(row) if isinstance(masker, GrammarMasker) else masker.fill(row)
        for masker, row in zip(maskers, words, strict=False)
    ]


@cache
def _executor() -> Any:
    """llguidance's threads, which keep nothing between calls."""
    return llguidance().LLExecutor(NUM_THREADS)
