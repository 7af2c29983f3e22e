"""The rules that follow from the parameters of requests: what changes their logits, and what restricts their
tokens one after another."""

import threading
from collections.abc import Collection
from dataclasses import dataclass

from jinfer.errors import RequestError
from jinfer.requests.bad_words import BadWords
from jinfer.requests.filtered_masker import FilteredMasker
from jinfer.requests.logits_rules import LogitsRules
from jinfer.requests.new_logits_rules import new_logits_rules
from jinfer.requests.request import Request
from jinfer.requests.sampling_params import SamplingParams
from jinfer.requests.token_masker import TokenMasker, full_mask
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.grammar_masker import GrammarMasker
from jinfer.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class RequestRules:
    """The rules of all requests that share their parameters, made once: a batch may have many prompts, and
    the rules large masks. `masker` is of an output's beginning, and each sequence gets a copy."""

    logits_rules: LogitsRules | None
    masker: TokenMasker | None = None

    def give_to(self, request: Request) -> None:
        """Gives the rules to a request that has none yet."""
        request.logits_rules = self.logits_rules
        if self.masker is not None:
            for sequence in request.sequences:
                sequence.masker = self.masker.copy()


class RulesFactory:
    """Makes the rules of one model's requests. Threads may share it. Its compiler of grammars, with a process
    of its own, is made with the first grammar; `close` ends it."""

    def __init__(
        self, tokenizer: Tokenizer | None, *, vocab_size: int, eos_token_ids: Collection[int]
    ) -> None:
        """`vocab_size` is the number of the model's logits. Without a tokenizer no request may ask for bad
        words or a structure."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._compiler: GrammarCompiler | None = None
        self._lock = threading.Lock()

    def check(self, params: SamplingParams, stop_token_ids: Collection[int]) -> RequestRules:
        """The rules without a masker, where requests run in another process, or not at all. Raises
        RequestError for what can be known without compiling a grammar."""
        return RequestRules(self._logits_rules(params, self._bad_words(params), stop_token_ids))

    def make(
        self, params: SamplingParams, stop_token_ids: Collection[int], *, waits: bool = False
    ) -> RequestRules:
        """The rules, with a masker for a structure, and for bad words of several tokens.

        Raises RequestError also where structured outputs cannot be had, or are malformed; with `waits` also
        what the compiler says about a grammar, else the masker says it when it is ready.
        """
        bad_words = self._bad_words(params)
        logits_rules = self._logits_rules(params, bad_words, stop_token_ids)
        if logits_rules is None:
            return RequestRules(None)
        return RequestRules(logits_rules, self._masker(params, logits_rules, bad_words, waits=waits))

    def make_late(self, params: SamplingParams, stop_token_ids: Collection[int]) -> RequestRules:
        """The rules of requests that were accepted already, with parameters that `check` accepts: a structure
        that they cannot have becomes the error of their masker, as with a grammar that is refused later."""
        try:
            return self.make(params, stop_token_ids)
        except RequestError as error:
            return RequestRules(LogitsRules(), GrammarMasker.refused(error))

    def close(self) -> None:
        """Ends the process that compiles grammars. What still waits for one fails."""
        with self._lock:
            if self._compiler is not None:
                self._compiler.close()

    def _bad_words(self, params: SamplingParams) -> BadWords | None:
        if not params.bad_words:
            return None
        assert self._tokenizer is not None, "bad words without a tokenizer"
        return BadWords.of(params.bad_words, self._tokenizer, self._vocab_size)

    def _logits_rules(
        self, params: SamplingParams, bad_words: BadWords | None, stop_token_ids: Collection[int]
    ) -> LogitsRules | None:
        return new_logits_rules(params, bad_words, stop_token_ids=stop_token_ids, vocab_size=self._vocab_size)

    def _masker(
        self, params: SamplingParams, rules: LogitsRules, bad_words: BadWords | None, *, waits: bool
    ) -> TokenMasker | None:
        structure, mask = params.structured_outputs, rules.allowed_mask
        grammar = None if structure is None else self._the_compiler().masker(structure)
        if grammar is not None and waits:
            grammar.wait()
        if bad_words is None or not bad_words.lengths:
            if grammar is None or mask is None:
                return grammar
            bad_words = BadWords({})  # single ones are in the mask
        allowed = full_mask(self._vocab_size) if mask is None else mask
        return FilteredMasker(grammar, allowed=allowed, bad_words=bad_words)

    def _the_compiler(self) -> GrammarCompiler:
        assert self._tokenizer is not None, "structured outputs without a tokenizer"
        with self._lock:
            if self._compiler is None:
                self._compiler = GrammarCompiler(
                    self._tokenizer, vocab_size=self._vocab_size, eos_token_ids=self._eos_token_ids
                )
            return self._compiler
