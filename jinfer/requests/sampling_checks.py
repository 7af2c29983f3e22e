"""The checks of sampling parameters, one for each kind of value. All raise RequestError with the value, the
rule and the name of the parameter."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from jinfer.errors import RequestError, shown

BYTES = bytes | bytearray | memoryview  # collections of integers that are no token ids


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """The value is an integer of a range, and no bool."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name}={shown(value)} must be an integer from {low} to {high}", param=name)


def check_real(name: str, value: Any, low: float, high: float, *, is_open: bool = False) -> None:
    """The value is a number of a range, and so finite. `is_open`: the lower bound is no value itself."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (is_open and value == low):
        rule = f"above {low} and at most {high}" if is_open else f"from {low} to {high}"
        raise RequestError(f"{name}={shown(value)} must be a finite number {rule}", param=name)


def check_switch(name: str, value: Any) -> None:
    """The value is True or False."""
    if not isinstance(value, bool):
        raise RequestError(f"{name}={shown(value)} must be True or False", param=name)


def check_is_list(name: str, value: Any, rule: str) -> None:
    """The value is a collection that may be one of texts or token ids. `rule` says what it must be."""
    if not isinstance(value, Collection) or isinstance(value, BYTES | Mapping):
        raise RequestError(f"{name}={shown(value)} must be {rule}", param=name)


def check_text(name: str, value: Any, max_length: int, *, remedy: str = "") -> None:
    """The value is a string that has a character, and at most `max_length`."""
    if not isinstance(value, str) or not 0 < len(value) <= max_length:
        raise RequestError(
            f"{name}={shown(value)} must be a string of 1 to {max_length} characters{remedy}", param=name
        )


def check_token_ids(name: str, values: Iterable[Any]) -> None:
    """The values are integers from 0. Their upper bound is the model's."""
    for token_id in values:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise RequestError(f"{name} holds {shown(token_id)}; token ids are integers from 0", param=name)


def check_word(name: str, value: Any, words: Collection[str]) -> None:
    """The value is one of some words."""
    if not isinstance(value, str) or value not in words:
        raise RequestError(f"{name}={shown(value)} must be one of {', '.join(words)}", param=name)


def check_count(name: str, values: Collection[Any], low: int, high: int) -> None:
    """A collection has a number of entries in a range."""
    if not low <= len(values) <= high:
        raise RequestError(
            f"{name} has {len(values)} entries; give {low} to {high}, or None for no rule", param=name
        )


def check_texts(name: str, values: Any, max_count: int, max_length: int) -> None:
    """The value is a list of at most `max_count` texts, each of bounded length."""
    if isinstance(values, str):
        raise RequestError(
            f"{name}={shown(values)} must be a list of strings; give [{shown(values)}]", param=name
        )
    check_is_list(name, values, "a list of strings")
    check_count(name, values, 0, max_count)
    for text in values:
        check_text(name, text, max_length)


def check_bias(name: str, value: Any, max_count: int) -> None:
    """The value maps at most `max_count` token ids to finite numbers."""
    if not isinstance(value, Mapping):
        raise RequestError(
            f"{name}={shown(value)} must map token ids to numbers, as {{17: -5.0}} does", param=name
        )
    check_count(name, value, 0, max_count)
    check_token_ids(name, value)
    for token_id, bias in value.items():
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not is_number or not -math.inf < bias < math.inf:
            raise RequestError(f"{name}[{token_id}]={shown(bias)} must be a finite number", param=name)
