"""Stations 1 and 2: a prompt and its parameters become a validated Request. Needs neither weights nor an
engine."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from jinfer.config import EngineLimits
from jinfer.errors import RequestError
from jinfer.requests.new_request import create_request, stop_ids_of
from jinfer.requests.prompts import Messages, Prompt, as_conversations
from jinfer.requests.request import Request
from jinfer.requests.request_rules import RequestRules, RulesFactory
from jinfer.requests.sampling_params import SamplingParams
from jinfer.text.detokenizer import Detokenizer
from jinfer.text.tokenizer import Tokenizer


class PreparedParams(NamedTuple):
    """Parameters none of which is open, and the rules that follow from them."""

    params: SamplingParams
    rules: RequestRules


class RequestFactory:
    """Makes the requests of one model under one set of limits, and numbers them. Threads may share it."""

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        sampling_defaults: Mapping[str, Any],
        limits: EngineLimits,
        placed_token_ids: Collection[int] = frozenset(),
        makes_maskers: bool = True,
    ) -> None:
        """`vocab_size` is the model's, whose embedding may have more rows than the tokenizer has tokens.
        `sampling_defaults` stand for parameters that are None. `placed_token_ids` are the added tokens whose
        places in outputs are noted. Where requests run in another process, or not at all, no maskers are
        made."""
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = eos_token_ids
        self._sampling_defaults = sampling_defaults
        self._limits = limits
        self._placed_token_ids = placed_token_ids
        self._makes_maskers = makes_maskers
        self.rules = RulesFactory(tokenizer, vocab_size=vocab_size, eos_token_ids=eos_token_ids)
        self._numbers = itertools.count(1)

    def create_all(
        self,
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams],
        *,
        priority: int = 0,
        waits: bool = False,
    ) -> list[Request]:
        """A request for each pair, or none at all. Raises RequestError, which names the prompt if there are
        several."""
        requests = []
        prepared: dict[int, PreparedParams] = {}  # by identity: many prompts may share one
        for index, (prompt, each) in enumerate(zip(prompts, params, strict=True)):
            try:
                if id(each) not in prepared:
                    prepared[id(each)] = self._prepare(each, waits=waits)
                requests.append(self._create(prompt, prepared[id(each)], priority))
            except RequestError as error:
                if len(prompts) == 1:
                    raise
                raise RequestError(
                    f"prompts[{index}]: {error}", param=error.param, code=error.code
                ) from error
        return requests

    def create(
        self, prompt: Prompt, params: SamplingParams, *, priority: int = 0, waits: bool = False
    ) -> Request:
        """A request that could run alone, with the numbers in the RequestError if it could not. Nothing is
        accepted yet. Requests of lower `priority` begin first. With `waits` a grammar is compiled when it
        returns, and else the request may still end for it."""
        return self._create(prompt, self._prepare(params, waits=waits), priority)

    def wait_for_grammars(self, params: Sequence[SamplingParams]) -> None:
        """Waits until what these parameters ask for is compiled, so that requests made of them then need not.
        Raises RequestError for what cannot be."""
        for each in {id(each): each for each in params if each.structured_outputs is not None}.values():
            self._prepare(each, waits=True)

    def _prepare(self, params: SamplingParams, *, waits: bool) -> PreparedParams:
        self._check_text_needs(params)
        resolved = params.with_defaults(self._sampling_defaults)
        stop_token_ids = stop_ids_of(resolved, self._eos_token_ids, self._vocab_size)
        if self._makes_maskers:
            rules = self.rules.make(resolved, stop_token_ids, waits=waits)
        else:
            rules = self.rules.check(resolved, stop_token_ids)
        if self._limits.num_experts is not None:
            _check_has_routed_steps(resolved, rules)
        return PreparedParams(resolved, rules)

    def _create(self, prompt: Prompt, prepared: PreparedParams, priority: int) -> Request:
        ids = prompt.token_ids
        if ids is None:
            assert prompt.text is not None
            ids = tuple(self.need_tokenizer("a prompt of text").encode(prompt.text))
        request = create_request(
            request_id=f"request-{next(self._numbers)}",
            prompt=prompt.text,
            prompt_token_ids=ids,
            params=prepared.params,
            eos_token_ids=self._eos_token_ids,
            vocab_size=self._vocab_size,
            limits=self._limits,
            priority=priority,
        )
        prepared.rules.give_to(request)
        for sequence in request.sequences:
            sequence.detokenizer = self._detokenizer(request)
        return request

    def render(self, messages: Messages) -> list[Prompt]:
        """The prompt of each conversation, by the model's chat template. An error among several names the one
        at fault."""
        tokenizer = self.need_tokenizer("chat")
        conversations = as_conversations(messages)
        prompts = []
        for index, conversation in enumerate(conversations):
            try:
                prompts.append(Prompt(token_ids=tuple(tokenizer.apply_chat_template(conversation))))
            except RequestError as error:
                if len(conversations) == 1:
                    raise
                raise RequestError(f"conversations[{index}]: {error}") from error
        return prompts

    def need_tokenizer(self, what: str) -> Tokenizer:
        """The tokenizer. Raises RequestError where the model has none, with the feature that needs one."""
        if self.tokenizer is None:
            raise RequestError(
                f"{what} needs a tokenizer, and the model has none; pass token ids, or LLM(tokenizer=...)"
            )
        return self.tokenizer

    def close(self) -> None:
        """Ends the process that compiles grammars, if a request needed it."""
        self.rules.close()

    def _check_text_needs(self, params: SamplingParams) -> None:
        needs = {
            "stop strings": params.stop_strings,
            "bad_words": params.bad_words,
            "structured_outputs": params.structured_outputs,
        }
        for what, value in needs.items():
            if value:
                self.need_tokenizer(what)

    def _detokenizer(self, request: Request) -> Detokenizer | None:
        if self.tokenizer is None:
            return None
        params = request.params
        return Detokenizer(
            self.tokenizer,
            stop=params.stop_strings,
            include_stop_str_in_output=params.include_stop_str_in_output,
            skip_special_tokens=params.skip_special_tokens,
            min_tokens=params.min_tokens,
            context=request.prompt_token_ids,
            placed_token_ids=self._placed_token_ids,
        )


def _check_has_routed_steps(params: SamplingParams, rules: RequestRules) -> None:
    """Raises RequestError for a request whose steps have two halves, which do not tell the experts."""
    halves = {
        "what changes its logits (penalties, biases, words, structured outputs)": rules.logits_rules
        is not None
        or rules.masker is not None,
        "prompt_logprobs": params.prompt_logprobs is not None,
        "log probabilities of processed logits": params.reports_processed_logprobs,
    }
    found = [what for what, is_asked in halves.items() if is_asked]
    if found:
        raise RequestError(
            f"the request has {' and '.join(found)}, and an engine with routed_experts=True serves requests "
            "without; leave it out, or use an engine without the option"
        )
