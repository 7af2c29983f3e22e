"""The masks of one sequence under a grammar."""

import itertools
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jinfer.errors import RequestError
from jinfer.text.grammar.library import error_words

Matcher = Any
"""llguidance.LLMatcher"""


def check_words(words: NDArray[np.uint32]) -> None:
    """llguidance writes at the address of an array."""
    assert words.dtype == np.uint32
    assert words.flags.c_contiguous
    assert words.flags.writeable


class Placed(NamedTuple):
    """A matcher at a place in an output, and the number of the lexer that it shares with others."""

    matcher: Matcher
    lexer: int


class Prototype:
    """A compiled grammar, whose copies are given to sequences.

    Copies share the states that their lexer met, and a lock: one of them at a time fills a mask. So a grammar
    may have several lexers, each compiled for itself. A copy that finds no room for one more state spoils
    the prototype, which is then compiled anew for later requests.
    """

    def __init__(self, matcher: Matcher) -> None:
        self._matchers = [matcher]
        self._numbers = itertools.count()
        self.is_spoiled = False

    def add_lexer(self, matcher: Matcher) -> None:
        """Adds the same grammar, compiled once more. Threads may ask for matchers meanwhile."""
        self._matchers.append(matcher)

    def new_matcher(self) -> Placed:
        """A matcher of the beginning of an output, of each lexer in turn. Threads may ask for some at
        once."""
        lexer = next(self._numbers) % len(self._matchers)
        return Placed(self._matchers[lexer].deep_copy(), lexer)


class GrammarMasker:
    """A TokenMasker (see requests.token_masker) of a grammar that a GrammarCompiler compiles."""

    def __init__(self, prototype: Future[Prototype], placed: Placed | None = None) -> None:
        """`placed` is at the sequence's place, and None at its beginning."""
        self._prototype = prototype
        self._placed = placed
        self._error: RequestError | None = None

    @classmethod
    def refused(cls, error: RequestError) -> "GrammarMasker":
        """The masker of what is no grammar, for the reason that becomes its `error`."""
        prototype: Future[Prototype] = Future()
        prototype.set_exception(error)
        return cls(prototype)

    @property
    def is_ready(self) -> bool:
        """True once the grammar is compiled, or was refused."""
        return self._prototype.done()

    @property
    def error(self) -> RequestError | None:
        """llguidance's words about a grammar that it refuses, or that outgrew its limits; None while all is
        well."""
        if self._error is not None:
            return self._error
        if self._placed is None:
            refused = self._prototype.exception()
            assert refused is None or isinstance(refused, RequestError)
            self._error = refused
        elif self._placed.matcher.is_error():
            self._prototype.result().is_spoiled = True
            words = error_words(self._placed.matcher.get_error())
            self._error = RequestError(
                f"structured_outputs: the output cannot go on: {words}; make the grammar simpler"
            )
        return self._error

    @property
    def is_finished(self) -> bool:
        """True if nothing but an end-of-sequence token may follow, or one has come."""
        return self.matcher().is_stopped()

    def fill(self, words: NDArray[np.uint32]) -> bool:
        """Write the mask of the next token. False if no token is allowed, and `error` is set."""
        if self.error is None:
            check_words(words)
            self.matcher().unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        return self.is_usable(words, bool(words.max()))  # six times as fast as any()

    def accept(self, token_id: int) -> None:
        """Take a token of the sequence."""
        self.matcher().consume_token(token_id)

    def copy(self) -> "GrammarMasker":
        """An independent masker in the same state."""
        placed = self._placed
        if placed is not None:
            placed = placed._replace(matcher=placed.matcher.deep_copy())
        return GrammarMasker(self._prototype, placed)

    def wait(self) -> None:
        """Wait until it is ready, which is bounded as compiling is. Raises RequestError for a grammar that is
        refused."""
        self._prototype.result()

    def matcher(self) -> Matcher:
        """llguidance's own object, for `fill_masks`. The grammar must be compiled."""
        if self._placed is None:
            self._placed = self._prototype.result().new_matcher()
        return self._placed.matcher

    @property
    def lexer(self) -> tuple[int, int]:
        """A key that it has in common with the maskers that share its lexer, of which one at a time fills its
        mask. The grammar must be compiled."""
        self.matcher()
        assert self._placed is not None
        return id(self._prototype), self._placed.lexer

    def is_usable(self, words: NDArray[np.uint32], has_tokens: bool) -> bool:
        """False for a mask with no token; the mask of an error is made one."""
        if self.error is None:
            return has_tokens
        words[:] = 0
        return False
