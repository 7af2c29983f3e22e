"""Masks of which bad words, and tokens that are not allowed, are taken out."""

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from jinfer.errors import RequestError
from jinfer.requests.bad_words import BadWords
from jinfer.requests.token_masker import TokenMasker, allows, forbid_tokens


class FilteredMasker:
    """A TokenMasker: what `allowed` allows, and another masker if there is one, without the tokens that would
    end a bad word.

    The tokens of the prompt are no part of a bad word.
    """

    def __init__(
        self,
        inner: TokenMasker | None,
        *,
        allowed: NDArray[np.uint32],
        bad_words: BadWords,
        output: Iterable[int] = (),
    ) -> None:
        """`allowed` is not changed, and may be shared. `output` are the tokens that were taken already."""
        self._inner = inner
        self._allowed = allowed
        self._bad_words = bad_words
        self._newest: deque[int] = deque(output, maxlen=max(bad_words.lengths, default=0))
        self._error: RequestError | None = None

    @property
    def is_ready(self) -> bool:
        """True once the other masker is ready."""
        return self._inner is None or self._inner.is_ready

    @property
    def error(self) -> RequestError | None:
        """The other masker's error, or that nothing is left to choose."""
        return self._error if self._inner is None else self._inner.error or self._error

    @property
    def is_finished(self) -> bool:
        """True if the other masker is finished."""
        return self._inner is not None and self._inner.is_finished

    def fill(self, words: NDArray[np.uint32]) -> bool:
        """Write the mask of the next token. False if no token is allowed, and `error` is set."""
        if self._inner is None:
            words[:] = self._allowed
        elif self._inner.fill(words):
            words &= self._allowed
        else:
            return False
        if forbid_tokens(words, self._forbidden()):
            return True
        self._error = RequestError(
            "the structured output can go on with none of the tokens that allowed_token_ids and bad_words "
            "leave; allow more"
            if self._inner is not None
            else "bad_words forbid every token that may follow; allow more tokens, or fewer bad words"
        )
        return False

    def accept(self, token_id: int) -> None:
        """Take a token of the sequence."""
        if not allows(self._allowed, token_id) or token_id in self._forbidden():
            self._error = RequestError(f"token {token_id} came, which allowed_token_ids or bad_words forbid")
        if self._inner is not None:
            self._inner.accept(token_id)
        self._newest.append(token_id)

    def copy(self) -> "FilteredMasker":
        """An independent masker in the same state."""
        inner = None if self._inner is None else self._inner.copy()
        return FilteredMasker(inner, allowed=self._allowed, bad_words=self._bad_words, output=self._newest)

    def _forbidden(self) -> frozenset[int]:
        return self._bad_words.forbidden_after(tuple(self._newest))
