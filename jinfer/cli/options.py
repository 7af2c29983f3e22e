"""Options that several commands have, and the values that are made of them."""

import argparse
import contextlib
import functools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_origin

from jinfer.config import EngineConfig
from jinfer.errors import RequestError
from jinfer.options import Option
from jinfer.requests.sampling_params import SamplingParams
from jinfer.requests.structured_outputs import json_object_of

MAX_DIGITS, MAX_SHOWN = 18, 60
BOOLEANS = {"true": True, "false": False}
TOKEN_ID = re.compile(rf"\s*[+-]?[0-9]{{1,{MAX_DIGITS}}}\s*")
SAMPLING_OPTIONS = (
    "n",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "bad_words",
    "logprobs",
    "prompt_logprobs",
    "structured_outputs",
)


def add_sampling_options(parser: argparse.ArgumentParser) -> Any:
    """Adds the group of what SamplingParams has for every command, and returns it for further options."""
    sampling = parser.add_argument_group(
        "sampling (default: the model's generation_config.json, else 1, 1, 0, 0)"
    )
    sampling.add_argument("--max-tokens", type=int, metavar="N", help="default: the rest of the context")
    sampling.add_argument("--min-tokens", type=int, metavar="N")
    sampling.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    sampling.add_argument("--top-p", type=float, metavar="P")
    sampling.add_argument("--top-k", type=int, metavar="K")
    sampling.add_argument("--min-p", type=float, metavar="P")
    for name, rule in (("presence", "-2 to 2"), ("frequency", "-2 to 2"), ("repetition", "1 is none")):
        sampling.add_argument(f"--{name}-penalty", type=float, metavar="P", help=rule)
    sampling.add_argument("--seed", type=int, help="the same seed gives the same tokens")
    sampling.add_argument(
        "--stop",
        action="append",
        type=argument_text,
        metavar="TEXT",
        help="ends the output; may be given several times",
    )
    sampling.add_argument("--ignore-eos", action="store_true", help="go on after the end of sequence")
    return sampling


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Adds the group of EngineConfig's options. Progress is on by default in a terminal only."""
    add_options(parser.add_argument_group("engine"), EngineConfig.options().values())
    parser.set_defaults(progress=sys.stderr.isatty())


def add_options(group: Any, options: Iterable[Option], *, only_given: bool = False) -> None:
    """Adds options to a group of a parser. With `only_given`, those that are not given are not in the
    namespace."""
    for option in options:
        default = argparse.SUPPRESS if only_given else option.default
        group.add_argument(option.flag, dest=option.name, default=default, help=option.help, **_form(option))


def _form(option: Option) -> dict[str, Any]:
    """Keywords of argparse for an option of this type."""
    if option.value_type is None:
        return {"choices": option.words}
    if option.value_type is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(option.value_type) is tuple:
        return {"nargs": "+", "metavar": option.metavar}
    if get_origin(option.value_type) is Mapping:
        return {"action": _Assign, "metavar": option.metavar}
    parse = functools.partial(_number_or_word, option.words) if option.words else option.value_type
    return {"type": parse, "metavar": option.metavar}


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """The sampling parameters that were given. Raises RequestError."""
    values = {name: getattr(options, name, None) for name in SAMPLING_OPTIONS}
    given = {name: value for name, value in values.items() if value is not None}
    return SamplingParams.from_options({"ignore_eos": options.ignore_eos, **given})


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the engine, as keyword arguments of LLM."""
    return {name: getattr(options, name) for name in EngineConfig.options()}


def argument_text(word: str) -> str:
    """The text of a word of the command line: UTF-8, also under a locale of another encoding, such as C's.

    Bytes that are no UTF-8 stay surrogates, which a prompt refuses.
    """
    try:
        word.encode()
    except UnicodeEncodeError:
        with contextlib.suppress(UnicodeError):
            return os.fsencode(word).decode("utf-8")
    return word


def token_ids(text: str) -> list[int]:
    """Ids from the form 1,2,3. The request checks them against the vocabulary."""
    parts = text.split(",")
    if not all(TOKEN_ID.fullmatch(part) for part in parts):
        shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
        raise argparse.ArgumentTypeError(
            f"{shown!r} is not a list of token ids such as 1,2,3; an id is a number of at most "
            f"{MAX_DIGITS} digits"
        )
    return [int(part) for part in parts]


def json_object(text: str) -> dict[str, Any]:
    """The object of a text of JSON."""
    try:
        return json_object_of("the value", text)
    except RequestError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class _Assign(argparse.Action):
    """NAME=VALUE, which may be repeated, as a mapping of strings, and of booleans for true and false."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        name, equals, value = values.partition("=")
        if not name or not equals:
            raise argparse.ArgumentError(self, f"{values!r} is not NAME=VALUE")
        setattr(
            namespace,
            self.dest,
            {**getattr(namespace, self.dest, {}), name: BOOLEANS.get(value.lower(), value)},
        )


def _number_or_word(words: Sequence[str], text: str) -> int | str:
    if text in words:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of tokens nor {' nor '.join(words)}"
        ) from None
