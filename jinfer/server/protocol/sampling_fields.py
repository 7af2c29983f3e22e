"""The fields of sampling that endpoints share, and those that are refused since they cannot be honoured."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from jinfer.errors import shown
from jinfer.requests.sampling_params import SamplingParams
from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.server.json_body import bad_request
from jinfer.server.protocol.structure_fields import StructureFields, structure_of

AS_THEY_ARE = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "cache_salt"),
    *("min_tokens", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "bad_words", "allowed_token_ids"),
    *("logprobs_mode",),
)
"""Fields that SamplingParams has under the same name; null leaves each to its default."""

TOKEN_ID = re.compile(r"[0-9]{1,18}")
REFUSED: Mapping[str, tuple[Any, ...]] = {
    "guided_whitespace_pattern": (),
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


class SamplingFields(StructureFields, kw_only=True):
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

    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    logprobs_mode: str | None = None

    guided_whitespace_pattern: Any = None
    logits_processors: Any = None
    use_beam_search: Any = None
    truncate_prompt_tokens: Any = None


def sampling_params(
    fields: SamplingFields,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    structure: StructuredOutputs | None = None,
) -> SamplingParams:
    """The parameters of a request, whose `structure` another field may give. Raises RequestError for a value
    outside its rule, and ApiError for a field that cannot be honoured."""
    refuse(fields, REFUSED)
    n = 1 if fields.n is None else fields.n
    if fields.best_of not in (None, 1, n):
        raise bad_request(
            f"best_of={fields.best_of} is not supported; leave it out, and choose among n completions",
            param="best_of",
        )
    if fields.stream and fields.prompt_logprobs is not None:
        raise bad_request(
            "prompt_logprobs are not in the chunks of a stream; leave one of the two out",
            param="prompt_logprobs",
        )
    given = {name: value for name in AS_THEY_ARE if (value := getattr(fields, name)) is not None}
    return SamplingParams(
        n=n,
        max_tokens=max_tokens,
        logprobs=logprobs,
        prompt_logprobs=fields.prompt_logprobs,
        logit_bias=_bias(fields.logit_bias),
        structured_outputs=structure_of(fields, structure),
        **given,
    )


def _bias(given: Mapping[str, float] | None) -> dict[int, float] | None:
    """The bias by token ids, whose keys JSON has as strings."""
    for key in given or ():
        if not TOKEN_ID.fullmatch(key):
            raise bad_request(
                f'logit_bias has the key {shown(key)}; keys are token ids, as in {{"17": -5}}',
                param="logit_bias",
            )
    return None if given is None else {int(key): value for key, value in given.items()}


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
