"""The fields of sampling that endpoints share, and those that are refused since they cannot be honoured."""

from collections.abc import Mapping
from typing import Any

import msgspec

from jinfer.requests.sampling_params import SamplingParams
from jinfer.server.json_body import bad_request

AS_THEY_ARE = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "cache_salt"),
    *("min_tokens", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output"),
)
"""Fields that SamplingParams has under the same name; null leaves each to its default."""

REFUSED: Mapping[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"}, {}),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_whitespace_pattern": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "prompt_logprobs": (),
    "logits_processors": ([],),
    "use_beam_search": (False,),
    "truncate_prompt_tokens": (),
}
"""Fields that would change the answer and that jinfer does not have yet, and the values besides null that ask
for nothing."""


class StreamOptions(msgspec.Struct):
    """The counts of tokens that a stream has: at its end, or in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True):
    """The fields that completions and chat share. Unknown fields are accepted and ignored."""

    model: str | None = None
    n: int | None = None
    best_of: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    user: str | None = None

    response_format: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_whitespace_pattern: Any = None
    logit_bias: Any = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    bad_words: Any = None
    allowed_token_ids: Any = None
    prompt_logprobs: Any = None
    logits_processors: Any = None
    use_beam_search: Any = None
    truncate_prompt_tokens: Any = None


def sampling_params(
    fields: SamplingFields, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """The parameters of a request. Raises RequestError for a value outside its rule, and ApiError for a field
    that cannot be honoured."""
    refuse(fields, REFUSED)
    n = 1 if fields.n is None else fields.n
    if fields.best_of not in (None, 1, n):
        raise bad_request(
            f"best_of={fields.best_of} is not supported; leave it out, and choose among n completions",
            param="best_of",
        )
    given = {name: value for name in AS_THEY_ARE if (value := getattr(fields, name)) is not None}
    return SamplingParams(n=n, max_tokens=max_tokens, logprobs=logprobs, **given)


def refuse(fields: msgspec.Struct, refused: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ApiError for the first field that asks for what jinfer does not have."""
    for name, neutral in refused.items():
        value = getattr(fields, name)
        if value is not None and value not in neutral:
            raise bad_request(
                f"{name} is not supported by this version, and would change the answer; leave it out",
                param=name,
            )


def wants_usage(fields: SamplingFields) -> tuple[bool, bool]:
    """A pair: the stream ends with a chunk of usage, and every chunk has it."""
    options = fields.stream_options or StreamOptions()
    return bool(options.include_usage), bool(options.continuous_usage_stats)
