"""Compiles grammars for a model, in a thread of its own."""

import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jinfer.errors import RequestError
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.requests.token_masker import num_mask_words
from jinfer.text.grammar.grammar_checker import GrammarChecker
from jinfer.text.grammar.grammar_list import grammar_text
from jinfer.text.grammar.grammar_masker import GrammarMasker, Matcher, Prototype
from jinfer.text.grammar.library import error_words, llguidance
from jinfer.text.grammar.limits import GrammarLimits
from jinfer.text.tokenizer import Tokenizer

IN_STRINGS = r'[^"\\\x00-\x1F\x7F]'
SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    *(f"{IN_STRINGS}{{1,{n}}}" for n in (3, 5, 8, 10, 15, 20, 30)),
    f"{IN_STRINGS}+",
]
"""Sets of tokens that a mask takes or leaves as a whole, a token in the first that has it. llguidance's own
end at 10 and 30 characters: in strings that may have 15 to 29 more, a mask takes a sixth of the time with
these, and in shorter ones two thirds (docs/decisions/0033)."""


class Job(NamedTuple):
    """A grammar to compile, and where the result goes."""

    grammar: str
    prototype: Future[Prototype]


class GrammarCompiler:
    """Gives maskers of structured outputs. Safe to share between threads.

    A grammar is first compiled by a process of its own, which it may bring down (see check_process), then
    here, and when no other waits, once more for each further thread that fills masks (see Prototype).
    Compiled ones are kept, the least recently used are dropped. The thread ends when there is nothing to
    compile.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        eos_token_ids: Collection[int],
        limits: GrammarLimits | None = None,
    ) -> None:
        """`vocab_size` is the number of the model's logits. `eos_token_ids` are all that end its outputs: the
        one that tokenizer.json suggests may be another."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(
            token_id for token_id in eos_token_ids if token_id < tokenizer.vocab_size
        )
        self._limits = limits or GrammarLimits()
        self._checker = GrammarChecker(
            tokenizer.added_tokens, vocab_size=tokenizer.vocab_size, limits=self._limits
        )
        self._prototypes: OrderedDict[str, Future[Prototype]] = OrderedDict()
        self._jobs: deque[Job] = deque()
        self._more_lexers: deque[Job] = deque()  # done jobs, once for each lexer that their grammar lacks
        self._is_working = False
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def num_cached(self) -> int:
        """The number of grammars that are kept, those still to be compiled included."""
        return len(self._prototypes)

    def masker(
        self, outputs: StructuredOutputs, *, on_ready: Callable[[], None] | None = None
    ) -> GrammarMasker:
        """A masker of an output's beginning, which is ready when the grammar is compiled. Does not wait.

        on_ready: called once it is, in the compiler's thread; at once if it is already.
        Raises RequestError where llguidance is missing, the outputs are malformed, or too many grammars wait.
        What llguidance refuses becomes the masker's `error`.
        """
        llguidance()
        grammar = grammar_text(outputs, self._tokenizer.added_tokens)
        with self._lock:
            prototype = self._cached(grammar)
            if prototype is None:
                prototype = self._submit(grammar)
        if on_ready is not None:
            prototype.add_done_callback(lambda _: on_ready())
        return GrammarMasker(prototype)

    def prepare(self) -> None:
        """Build what all grammars need, in the thread: the first request then waits less."""
        self.masker(StructuredOutputs(json_object=True))

    def close(self) -> None:
        """Refuse what still waits and all that comes, and end the checking process, if need be when the
        thread is done with it."""
        with self._lock:
            self._is_closed = True
            waiting = list(self._jobs)
            self._jobs.clear()
            self._more_lexers.clear()
            self._prototypes.clear()
            is_idle = not self._is_working
        for job in waiting:
            job.prototype.set_exception(_closed_error())
        if is_idle:
            self._checker.close()

    def _cached(self, grammar: str) -> Future[Prototype] | None:
        prototype = self._prototypes.get(grammar)
        if prototype is None or _is_spoiled(prototype):
            return None
        self._prototypes.move_to_end(grammar)
        return prototype

    def _submit(self, grammar: str) -> Future[Prototype]:
        if self._is_closed:
            raise _closed_error()
        if len(self._jobs) >= self._limits.max_waiting:
            raise RequestError(
                f"structured_outputs: {len(self._jobs)} grammars wait to be compiled, and no more may; "
                "try again later"
            )
        prototype: Future[Prototype] = Future()
        self._prototypes[grammar] = prototype
        self._prototypes.move_to_end(grammar)
        while len(self._prototypes) > self._limits.max_cached:
            self._prototypes.popitem(last=False)
        self._jobs.append(Job(grammar, prototype))
        if not self._is_working:
            self._is_working = True
            threading.Thread(target=self._work, name="jinfer-grammars", daemon=True).start()
        return prototype

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            if job.prototype.done():
                with contextlib.suppress(BaseException):  # even a panic: the grammar has a lexer less
                    job.prototype.result().add_lexer(self._matcher(job.grammar))
                continue
            try:
                prototype = Prototype(self._checked_matcher(job.grammar))
            except RequestError as error:
                job.prototype.set_exception(error)
            except BaseException as error:  # a panic of Rust is no Exception, and the request must end
                refused = RequestError(f"structured_outputs: the grammar cannot be compiled: {error!r}")
                job.prototype.set_exception(refused)
            else:
                job.prototype.set_result(prototype)
                with self._lock:
                    self._more_lexers.extend([job] * (0 if self._is_closed else self._limits.num_lexers - 1))

    def _next_job(self) -> Job | None:
        """The next one. None ends the thread, and with a closed compiler the checking process too."""
        with self._lock:
            for jobs in (self._jobs, self._more_lexers):
                if jobs:
                    return jobs.popleft()
            self._is_working = False
            is_closed = self._is_closed
        if is_closed:
            self._checker.close()
        return None

    def _checked_matcher(self, grammar: str) -> Matcher:
        """A grammar that another process has compiled before. Raises RequestError with the words of who
        refuses it."""
        self._checker.start()  # while the tokenizer is built
        _ = self._ll_tokenizer
        if (refusal := self._checker.error(grammar)) is not None:
            raise _refused(refusal)
        return self._matcher(grammar)

    def _matcher(self, grammar: str) -> Matcher:
        """A grammar as llguidance compiles it. Raises RequestError with the words of its refusal."""
        library = llguidance()
        limits = library.LLParserLimits(**self._limits.parser)
        matcher = library.LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=limits)
        # The first mask is the slowest, and may be more than the limits allow: it is made here, for all.
        beginning = matcher.deep_copy()
        mask = np.empty(num_mask_words(self._vocab_size), np.uint32)
        beginning.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if beginning.is_error():
            raise _refused(beginning.get_error())
        return matcher

    @cached_property
    def _ll_tokenizer(self) -> Any:
        """llguidance's tokenizer, from the model's: a second of work. The thread alone asks for it."""
        num_ids = self._tokenizer.vocab_size
        if num_ids > self._vocab_size:
            raise RequestError(
                f"structured outputs need a logit of each token: the tokenizer has {num_ids} ids, and the "
                f"model {self._vocab_size} logits; use the tokenizer that belongs to the model"
            )
        try:
            return llguidance().LLTokenizer(
                self._tokenizer.to_json(),
                n_vocab=self._vocab_size,
                eos_token=self._eos_token_ids or None,
                slices=SLICES,
            )
        except ValueError as error:
            raise RequestError(
                f"llguidance cannot read the model's tokenizer: {error}; structured outputs need another"
            ) from error


def _is_spoiled(prototype: Future[Prototype]) -> bool:
    return prototype.done() and prototype.exception() is None and prototype.result().is_spoiled


def _refused(words: str) -> RequestError:
    return RequestError(f"structured_outputs: the grammar cannot be kept: {error_words(words)}")


def _closed_error() -> RequestError:
    return RequestError("structured_outputs: the engine was closed")
