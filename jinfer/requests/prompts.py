"""Prompts, messages and parameters in one form, from every form that callers may give them in."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinfer.config import EngineConfig
from jinfer.errors import ConfigError, RequestError, shown
from jinfer.requests.sampling_checks import BYTES
from jinfer.requests.sampling_params import SamplingParams

TokenIds = Sequence[int]
Prompts = str | TokenIds | Sequence[str | TokenIds]
"""A text, token ids, or a list of either."""
Messages = Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]]
"""One conversation, or a list of them."""


@dataclass(frozen=True)
class Prompt:
    """Exactly one of the two is given."""

    text: str | None = None
    token_ids: tuple[int, ...] | None = None


def as_prompts(prompts: Prompts) -> list[Prompt]:
    """A list of prompts from any of their forms. Raises RequestError for an empty list and for one that mixes
    forms."""
    plain = _as_plain(prompts)
    if isinstance(plain, str):
        return [Prompt(text=plain)]
    items = _as_list(prompts, "prompts", "a string, a list of token ids, or a list of either")
    if not items:
        raise RequestError(
            "the list of prompts is empty; give at least one prompt, '' for the BOS token alone"
        )
    if all(_is_integer(item) for item in items):
        return [Prompt(token_ids=tuple(operator.index(item) for item in items))]
    return [_one_prompt(item, index) for index, item in enumerate(items)]


def as_conversations(messages: Messages) -> list[Sequence[Mapping[str, Any]]]:
    """A list of conversations from one or several."""
    items = _as_list(messages, "messages", "a list of messages, or a list of such lists")
    if not items:
        raise RequestError("the list of messages is empty; give at least one message with a role and content")
    return [items] if isinstance(items[0], Mapping) else items


def as_params(
    params: SamplingParams | Sequence[SamplingParams] | None, options: Mapping[str, Any], count: int
):
    """One SamplingParams per prompt, from one for all, a list of as many, or keyword arguments."""
    if params is not None and options:
        raise RequestError(
            f"params and the keyword {next(iter(options))!r} are both given; put all into SamplingParams"
        )
    if params is None:
        return [SamplingParams.from_options(options)] * count
    if isinstance(params, SamplingParams):
        return [params] * count
    chosen = _as_list(params, "params", "a SamplingParams, or a list with one for each prompt")
    if len(chosen) != count or not all(isinstance(one, SamplingParams) for one in chosen):
        raise RequestError(
            f"{len(chosen)} params for {count} prompts; give one SamplingParams for all, or one for each"
        )
    return chosen


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of `jinfer.generate` as (those of LLM, sampling options). Raises ConfigError for
    others."""
    of_sampling = [field.name for field in dataclasses.fields(SamplingParams)]
    of_llm = ["tokenizer", *EngineConfig.options()]
    assert not set(of_sampling) & set(of_llm)
    for name in options:
        if name not in of_sampling and name not in of_llm:
            raise ConfigError(
                f"unknown option {name!r}; those of the engine are {', '.join(of_llm)}, and those of "
                f"sampling {', '.join(of_sampling)}"
            )
    sampling = {name: value for name, value in options.items() if name in of_sampling}
    return {name: value for name, value in options.items() if name in of_llm}, sampling


def _one_prompt(item: Any, index: int) -> Prompt:
    plain = _as_plain(item)
    if isinstance(plain, str):
        return Prompt(text=plain)
    if isinstance(plain, Sequence) and not isinstance(plain, BYTES) and all(map(_is_integer, plain)):
        return Prompt(token_ids=tuple(map(operator.index, plain)))
    raise RequestError(f"prompts[{index}] is {shown(item)}; a prompt is a string or a list of token ids")


def _as_list(value: Any, name: str, wanted: str) -> list:
    items = _as_plain(value)
    if not isinstance(items, Sequence) or isinstance(items, BYTES | str):
        raise RequestError(f"{name} is a {type(value).__name__}; give {wanted}")
    return list(items)


def _as_plain(value: Any) -> Any:
    """Lists for an array of NumPy, JAX or torch; other values as they are, bytes among them."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, BYTES) else value


def _is_integer(value: Any) -> bool:
    """True for a value that stands for one integer, as numpy's integers do, and True does not."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
