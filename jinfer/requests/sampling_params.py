"""The parameters of a request: how its tokens are chosen and when it ends."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinfer.errors import RequestError
from jinfer.requests.sampling_checks import (
    check_integer,
    check_is_list,
    check_real,
    check_switch,
    check_text,
    check_token_ids,
)

MAX_N = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_LENGTH = 1024
MAX_CACHE_SALT_LENGTH = 256
# Per sequence, the end-of-sequence ids included: the device keeps as many for min_tokens.
MAX_STOP_TOKEN_IDS = 16

MODEL_DEFAULTS = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}

INTEGERS = {
    "n": (1, MAX_N),
    "top_k": (-1, 2**31 - 1),
    "seed": (0, 2**64 - 1),
    "max_tokens": (1, 2**31 - 1),
    "min_tokens": (0, 2**31 - 1),
    "logprobs": (0, MAX_LOGPROBS),
}
REALS = {"temperature": (0, 2), "top_p": (0, 1), "min_p": (0, 1)}
"""Names with their bounds; the lower one of top_p is no value itself."""
SWITCHES = ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens")
OPTIONAL = {"temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "logprobs"}


@dataclass(frozen=True)
class SamplingParams:
    """Names, defaults and rules of vLLM's and OpenAI's parameters. Raises RequestError for a value outside
    its rule.

    The kept tokens are those that pass every filter: top_k of the distribution at `temperature`, then top_p
    of what top_k left, and min_p. `None` in temperature, top_p, top_k and min_p means the model's
    generation_config.json, or 1, 1, 0 and 0 where that says nothing.
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
    cache_salt: str | None = None
    """Separates tenants in the prefix cache, so that timing reveals no other tenant's prompts: only requests
    of equal salts share the keys and values of a common prefix. 1 to 256 characters."""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_stops()
        for name in SWITCHES:
            check_switch(name, getattr(self, name))
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
