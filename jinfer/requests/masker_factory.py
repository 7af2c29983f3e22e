"""The maskers of requests: what restricts their tokens one after another."""

import threading
from collections.abc import Collection

from jinfer.errors import RequestError
from jinfer.requests.bad_words import BadWords
from jinfer.requests.filtered_masker import FilteredMasker
from jinfer.requests.request import Request
from jinfer.requests.sampling_params import SamplingParams
from jinfer.requests.token_masker import TokenMasker, mask_of
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.grammar_masker import GrammarMasker
from jinfer.text.tokenizer import Tokenizer


class MaskerFactory:
    """Makes the maskers of one model. Threads may share it. Its compiler of grammars, with a process of its
    own, is made with the first grammar; `close` ends it."""

    def __init__(
        self, tokenizer: Tokenizer | None, *, vocab_size: int, eos_token_ids: Collection[int]
    ) -> None:
        """`vocab_size` is the number of the model's logits. Without a tokenizer no request may ask for bad
        words or a structure."""
        self._tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._compiler: GrammarCompiler | None = None
        self._lock = threading.Lock()

    def bad_words(self, params: SamplingParams) -> BadWords | None:
        """The tokens of the bad words; None where there are none. Raises RequestError for a text without
        tokens."""
        if not params.bad_words:
            return None
        assert self._tokenizer is not None, "bad words without a tokenizer"
        return BadWords.of(params.bad_words, self._tokenizer, self.vocab_size)

    def add_to(self, request: Request, bad_words: BadWords | None, *, waits: bool = False) -> None:
        """Gives each sequence of a new request its masker, if it needs one: for a structure, and for bad
        words of several tokens. `bad_words` are the request's.

        Raises RequestError where structured outputs cannot be had, or are malformed; with `waits` also what
        the compiler says about a grammar, else the masker says it when it is ready.
        """
        masker = self._masker(request, bad_words, waits=waits)
        if masker is not None:
            first, *others = request.sequences
            first.masker = masker
            for sequence in others:
                sequence.masker = masker.copy()

    def add_late(self, request: Request, bad_words: BadWords | None) -> None:
        """Does what `add_to` does for a request that was accepted already: what it cannot have becomes the
        error of its maskers, so that it fails as with a grammar that is refused later."""
        try:
            self.add_to(request, bad_words)
        except RequestError as error:
            for sequence in request.sequences:
                sequence.masker = GrammarMasker.refused(error)

    def close(self) -> None:
        """Ends the process that compiles grammars. What still waits for one fails."""
        with self._lock:
            if self._compiler is not None:
                self._compiler.close()

    def _masker(self, request: Request, bad_words: BadWords | None, *, waits: bool) -> TokenMasker | None:
        structure = request.params.structured_outputs
        grammar = None if structure is None else self._the_compiler().masker(structure)
        if grammar is not None and waits:
            grammar.wait()
        mask = None if request.logits_rules is None else request.logits_rules.allowed_mask
        if bad_words is None or not bad_words.lengths:
            if grammar is None or mask is None:
                return grammar
            bad_words = BadWords({})  # single ones are in the mask
        if mask is None:
            mask = mask_of(range(self.vocab_size), self.vocab_size)
        return FilteredMasker(grammar, allowed=mask, bad_words=bad_words)

    def _the_compiler(self) -> GrammarCompiler:
        assert self._tokenizer is not None, "structured outputs without a tokenizer"
        with self._lock:
            if self._compiler is None:
                self._compiler = GrammarCompiler(
                    self._tokenizer, vocab_size=self.vocab_size, eos_token_ids=self._eos_token_ids
                )
            return self._compiler
