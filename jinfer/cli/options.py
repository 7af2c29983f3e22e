"""Options that several commands have, and what becomes of them."""

import argparse
import contextlib
import os
import re
from typing import Any, get_args

from jinfer.config import DType, EngineConfig, Kernels, SchedulingPolicy
from jinfer.requests.sampling_params import SamplingParams

MOST_DIGITS, MOST_SHOWN = 18, 60
TOKEN_ID = re.compile(rf"\s*[+-]?[0-9]{{1,{MOST_DIGITS}}}\s*")
ENGINE_OPTIONS = (
    "dtype",
    "page_size",
    "num_pages",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "scheduling_policy",
    "overlap",
    "prefix_caching",
)
SAMPLING_OPTIONS = (
    "n",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "logprobs",
)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The group of what SamplingParams has."""
    sampling = parser.add_argument_group("sampling (default: the model's generation_config.json, else 1, 1, 0, 0)")
    sampling.add_argument("--n", type=int, help="completions of each prompt")
    sampling.add_argument("--max-tokens", type=int, metavar="N", help="default: the rest of the context")
    sampling.add_argument("--min-tokens", type=int, metavar="N")
    sampling.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    sampling.add_argument("--top-p", type=float, metavar="P")
    sampling.add_argument("--top-k", type=int, metavar="K")
    sampling.add_argument("--min-p", type=float, metavar="P")
    sampling.add_argument("--seed", type=int, help="the same seed gives the same tokens")
    sampling.add_argument(
        "--stop",
        action="append",
        type=argument_text,
        metavar="TEXT",
        help="ends the output; may be given several times",
    )
    sampling.add_argument("--ignore-eos", action="store_true", help="go on after the end of sequence")
    sampling.add_argument(
        "--logprobs", type=int, metavar="K", help="with --json: the K most likely tokens of each step"
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The group of what EngineConfig has."""
    engine = parser.add_argument_group("engine")
    engine.add_argument("--dtype", choices=get_args(DType), help="default: bfloat16 on a GPU, float32 on a CPU")
    engine.add_argument(
        "--kernels",
        choices=get_args(Kernels),
        default=EngineConfig.kernels,
        help="default: pallas on a GPU, xla elsewhere",
    )
    engine.add_argument(
        "--page-size", type=int, metavar="N", help=f"tokens in a page; default {EngineConfig.page_size}"
    )
    engine.add_argument("--num-pages", type=int, metavar="N", help="default: what the memory holds")
    engine.add_argument("--max-num-seqs", type=int, metavar="N", help="default: 256 on a GPU, 8 on a CPU")
    engine.add_argument("--max-num-batched-tokens", type=int, metavar="N", help="default: 4096 on a GPU, 256 on a CPU")
    engine.add_argument(
        "--max-model-len", type=_length_or_auto, metavar="N", help="default, and auto: the model's, if memory holds it"
    )
    engine.add_argument(
        "--scheduling-policy", choices=get_args(SchedulingPolicy), default=EngineConfig.scheduling_policy,
        help="which steps compute prompts, and which decode",
    )  # fmt: skip
    engine.add_argument(
        "--no-overlap", action="store_false", dest="overlap", help="read each step before the next is planned"
    )
    engine.add_argument(
        "--no-prefix-caching", action="store_false", dest="prefix_caching",
        help="compute every prompt, whatever was computed before",
    )  # fmt: skip
    engine.add_argument(
        "--dummy-weights", action="store_true", help="random weights; the model needs only a config.json"
    )


def sampling_params(options: argparse.Namespace) -> SamplingParams:
    """Of those that were given. Raises RequestError."""
    given = {name: getattr(options, name) for name in SAMPLING_OPTIONS if getattr(options, name) is not None}
    return SamplingParams(ignore_eos=options.ignore_eos, **given)


def engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as keyword arguments of LLM."""
    given = {name: getattr(options, name) for name in ENGINE_OPTIONS if getattr(options, name) is not None}
    return {"kernels": options.kernels, "dummy_weights": options.dummy_weights, **given}


def argument_text(word: str) -> str:
    """The text of a word of the command line: UTF-8, also where the locale says another encoding, such as C's.

    Bytes that are no UTF-8 stay surrogates, which a prompt refuses."""
    try:
        word.encode()
    except UnicodeEncodeError:
        with contextlib.suppress(UnicodeError):
            return os.fsencode(word).decode("utf-8")
    return word


def token_ids(text: str) -> list[int]:
    """Ids from the form 1,2,3. Whether a model has them is found out later."""
    parts = text.split(",")
    if not all(TOKEN_ID.fullmatch(part) for part in parts):
        shown = text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "..."
        raise argparse.ArgumentTypeError(
            f"{shown!r} is not a list of token ids such as 1,2,3; an id is a number of at most {MOST_DIGITS} digits"
        )
    return [int(part) for part in parts]


def _length_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor auto") from None
