"""The parameters of a request: how its tokens are chosen and when it ends."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jinfer.errors import RequestError, shown
from jinfer.requests.logits_rules import MAX_LOGIT_BIAS
from jinfer.requests.sampling_checks import (
    check_bias,
    check_count,
    check_integer,
    check_is_list,
    check_real,
    check_switch,
    check_text,
    check_texts,
    check_token_ids,
    check_word,
)
from jinfer.requests.structured_outputs import StructuredOutputs

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_LENGTH = 1024
MAX_CACHE_SALT_LENGTH = 256
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_LENGTH = 256
MAX_ALLOWED_TOKEN_IDS = 2**20  # more than any vocabulary has
MAX_BIAS = 100.0
# Float32 holds every product and quotient of a logit with them.
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.001, 1000
# Per sequence, the end-of-sequence ids included: the device keeps as many for min_tokens.
MAX_STOP_TOKEN_IDS = 16

MODEL_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}

INTEGERS = {
    "n": (1, MAX_N),
    "top_k": (-1, 2**31 - 1),
    "seed": (0, 2**64 - 1),
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "logprobs": (0, MAX_LOGPROBS),
    "prompt_logprobs": (0, MAX_LOGPROBS),
}
REALS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY),
}
"""Names with their bounds; the lower one of top_p is no value itself."""
SWITCHES = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")
OPTIONAL = {*MODEL_DEFAULTS, "seed", "max_tokens", "logprobs", "prompt_logprobs"}
LogprobsMode = Literal["raw_logprobs", "processed_logprobs"]


@dataclass(frozen=True)
class SamplingParams:
    """Names, defaults and rules of vLLM's and OpenAI's parameters. Raises RequestError for a value outside
    its rule.

    The kept tokens are those that pass every filter: top_k of the distribution at `temperature`, then top_p
    of what top_k left, and min_p. `None` in temperature, top_p, top_k, min_p and repetition_penalty means the
    model's generation_config.json, or 1, 1, 0, 0 and 1 where that says nothing.
    """

    n: int = 1
    """Completions of the prompt, 1 to 128. Greedy ones would be equal, so temperature 0 needs 1."""
    temperature: float | None = None
    """0 to 2; 0 takes the most likely token."""
    top_p: float | None = None
    """Keep the fewest most likely tokens whose probabilities add up to it; in (0, 1]."""
    top_k: int | None = None
    """Keep the k most likely tokens, and all that tie with the last; 0 or -1 keeps all."""
    min_p: float | None = None
    """Keep tokens at least this likely, relative to the most likely; in [0, 1]."""
    seed: int | None = None
    """0 to 2**64 - 1; None draws a new one. In float32 the same seed gives the same tokens, whatever else
    runs. In bfloat16 a step of more rows rounds its logits otherwise, and where two tokens are as good as
    equal another may be chosen, after which the text differs; `python -m benchmarks.batch_dependence`
    measures how often."""
    max_tokens: int | None = None
    """Output tokens at most; None is the rest of the context."""
    min_tokens: int = 0
    """End-of-sequence and stop ids are not chosen, and stop strings not looked for, in this many output
    tokens."""
    stop: str | Sequence[str] | None = None
    """A string, or up to 16, that end the output."""
    stop_token_ids: Sequence[int] | None = None
    """Token ids that end the output, besides the model's end of sequence. The last token is in `token_ids`,
    and in the text unless it is a special token."""
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    """Go on after the model's end of sequence."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    logprobs: int | None = None
    """Log probabilities of the sampled token and of the k most likely, 0 to 20; None gives none."""
    logprobs_mode: LogprobsMode = "raw_logprobs"
    """`logprobs` are of the model's own distribution, or, with "processed_logprobs", of the one that a token
    is sampled from: after penalties, bias, masks, temperature and filters."""
    prompt_logprobs: int | None = None
    """Log probabilities of each token of the prompt after those before it, and of the k most likely there, 0
    to 20, by the model's own distribution. None gives none."""
    presence_penalty: float = 0.0
    """-2 to 2: subtracted from the logit of each token that is in the output."""
    frequency_penalty: float = 0.0
    """-2 to 2: subtracted from the logit of a token as often as it is in the output."""
    repetition_penalty: float | None = None
    """0.001 to 1000: divides the logit of each token that is in the prompt or the output where it is above 0,
    and multiplies it below."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of up to 1,024 token ids; values beyond -100 and 100 are taken as these."""
    allowed_token_ids: Sequence[int] | None = None
    """The only token ids that may be sampled. An output ends early if an end-of-sequence id is among them."""
    bad_words: Sequence[str] | None = None
    """Up to 1,024 texts whose tokens are not sampled one after another, neither with a space before them nor
    without. A text that the model spells with other tokens than the tokenizer does is not met."""
    structured_outputs: StructuredOutputs | None = None
    """The rule that the output fits; as a keyword argument also a mapping, {"regex": "..."}."""
    cache_salt: str | None = None
    """Separates tenants in the prefix cache, so that timing reveals no other tenant's prompts: only requests
    of equal salts share the keys and values of a common prefix. 1 to 256 characters."""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_stops()
        self._check_token_rules()
        for name in SWITCHES:
            check_switch(name, getattr(self, name))
        check_word("logprobs_mode", self.logprobs_mode, get_args(LogprobsMode))
        if self.cache_salt is not None:
            check_text(
                "cache_salt",
                self.cache_salt,
                MAX_CACHE_SALT_LENGTH,
                remedy=", or None to share with all that have none",
            )
        if self.n > 1 and self.temperature == 0:
            raise RequestError(
                f"n={self.n} with temperature 0 would give {self.n} equal texts; use n=1 or temperature > 0",
                param="n",
            )
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens={self.min_tokens} must not exceed max_tokens={self.max_tokens}",
                param="min_tokens",
            )

    @property
    def reports_processed_logprobs(self) -> bool:
        """True if log probabilities are wanted of the distribution that tokens are drawn from."""
        return self.logprobs is not None and self.logprobs_mode == "processed_logprobs"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple, whichever way it was given."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "SamplingParams":
        """The parameters of keyword arguments; an unknown name is an error that lists the known ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise RequestError(
                    f"unknown sampling parameter {name!r}; the parameters are {', '.join(known)}"
                )
        structure = options.get("structured_outputs")
        if isinstance(structure, Mapping):
            options = {**options, "structured_outputs": StructuredOutputs.from_options(structure)}
        return cls(**options)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "SamplingParams":
        """A copy in which no parameter that a model may set is None. `defaults` come before
        `MODEL_DEFAULTS`."""
        merged = {**MODEL_DEFAULTS, **defaults}
        return dataclasses.replace(
            self, **{name: value for name, value in merged.items() if getattr(self, name) is None}
        )

    def _check_numbers(self) -> None:
        for name, bounds in {**INTEGERS, **REALS}.items():
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if name in INTEGERS:
                check_integer(name, value, *INTEGERS[name])
            else:
                check_real(name, value, *bounds, is_open=name == "top_p")

    def _check_stops(self) -> None:
        if self.stop is not None:
            check_is_list("stop", self.stop, "a string or a list of strings")
        if len(self.stop_strings) > MAX_STOP_STRINGS:
            raise RequestError(
                f"{len(self.stop_strings)} stop strings; at most {MAX_STOP_STRINGS} are allowed", param="stop"
            )
        for text in self.stop_strings:
            check_text("stop", text, MAX_STOP_STRING_LENGTH)
        if self.stop_token_ids is not None:
            check_is_list("stop_token_ids", self.stop_token_ids, "a list of token ids")
            check_token_ids("stop_token_ids", self.stop_token_ids)

    def _check_token_rules(self) -> None:
        if self.logit_bias is not None:
            check_bias("logit_bias", self.logit_bias, MAX_LOGIT_BIAS)
        if self.allowed_token_ids is not None:
            check_is_list("allowed_token_ids", self.allowed_token_ids, "a list of token ids")
            check_count("allowed_token_ids", self.allowed_token_ids, 1, MAX_ALLOWED_TOKEN_IDS)
            check_token_ids("allowed_token_ids", self.allowed_token_ids)
        if self.bad_words is not None:
            check_texts("bad_words", self.bad_words, MAX_BAD_WORDS, MAX_BAD_WORD_LENGTH)
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise RequestError(
                f"structured_outputs={shown(self.structured_outputs)} must be a StructuredOutputs, such as "
                'StructuredOutputs(regex="...")',
                param="structured_outputs",
            )
