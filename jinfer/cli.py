"""The command line. Results go to stdout and nothing else does; progress, figures and errors go to stderr."""

import argparse
import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp

from jinfer.bench.cli import add_bench
from jinfer.config import Attention, DType, EngineConfig, SchedulingPolicy
from jinfer.errors import ConfigError, JinferError, RequestError
from jinfer.llm import LLM
from jinfer.models.checkpoint import load_checkpoint
from jinfer.models.hub import read_json, resolve_model_directory
from jinfer.models.orbax_io import check_is_new, save_orbax
from jinfer.models.registry import build_model, read_model_config
from jinfer.outputs import RequestOutput
from jinfer.request import FinishReason
from jinfer.sampling_params import SamplingParams

CONVERTED_DTYPES = (*get_args(DType), "float16")
EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED = 0, 1, 130
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status: 0, 1 for an error that was reported, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words, argparse.Namespace(words=words))
    with _messages_on_stderr():
        return _run_reporting_errors(options)


@contextlib.contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Shows what jinfer says while it starts, and leaves logging as it was: main() may be called by a program."""
    logger, handler = logging.getLogger("jinfer"), logging.StreamHandler(sys.stderr)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def _run_reporting_errors(options: argparse.Namespace) -> int:
    try:
        return options.run(options)
    except JinferError as error:
        print(f"jinfer: error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("jinfer: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _generate(options: argparse.Namespace) -> int:
    """`jinfer generate`: text as it becomes final, prompt after prompt, or a line of JSON for each."""
    prompts: list[Any] = [*(options.prompt or ()), *(options.prompt_token_ids or ())]
    if not prompts:
        raise RequestError("nothing to complete; give --prompt TEXT (several times for several) or --prompt-token-ids")
    chosen = {name: getattr(options, name) for name in SAMPLING_OPTIONS if getattr(options, name) is not None}
    params = SamplingParams(ignore_eos=options.ignore_eos, **chosen)
    with LLM(options.model, progress=sys.stderr.isatty(), **_engine_options(options)) as llm:
        return _print_json(llm, prompts, params) if options.json else _print_text(llm, prompts, params, options.echo)


def _print_json(llm: LLM, prompts: list[Any], params: SamplingParams) -> int:
    outputs = llm.generate(prompts, params)
    for output in outputs:
        print(json.dumps(_as_json(output), ensure_ascii=False), flush=True)
    return _report_errors(completion.error for output in outputs for completion in output.outputs)


def _as_json(output: RequestOutput) -> dict[str, Any]:
    """The first completion at the top, and all of them under `outputs` where there are several."""
    metrics = dataclasses.asdict(output.metrics) | {"output_tokens_per_s": output.metrics.output_tokens_per_s}
    completions = [dataclasses.asdict(completion) for completion in output.outputs]
    common = {"request_id": output.request_id, "prompt": output.prompt, "prompt_token_ids": output.prompt_token_ids}
    several = {"outputs": completions} if len(completions) > 1 else {}
    return {**common, **completions[0], **several, "timings": metrics}


def _print_text(llm: LLM, prompts: list[Any], params: SamplingParams, echo: bool) -> int:
    """Streams the completions in the order of the prompts, a line feed between two of them."""
    pieces = llm.stream(prompts, params)  # checks all prompts before anything is printed
    printer = _InOrder(len(prompts) * params.n, _prompt_texts(llm, prompts, params.n) if echo else None)
    started, num_tokens, first_token, errors = time.perf_counter(), 0, None, []
    for piece in pieces:
        first_token = first_token or time.perf_counter()
        num_tokens += len(piece.token_ids)
        printer.add(piece.prompt_index * params.n + piece.output_index, piece.text, piece.finish_reason)
        if piece.finish_reason is FinishReason.ERROR:
            errors.append(f"prompts[{piece.prompt_index}]: {piece.error}")
    elapsed = time.perf_counter() - started
    if sys.stdout.isatty():
        print(file=sys.stderr)
    if first_token is not None:
        print(
            f"{num_tokens} tokens in {elapsed:.2f} s: {num_tokens / elapsed:.1f} tokens/s, "
            f"first token after {(first_token - started) * 1e3:.0f} ms",
            file=sys.stderr,
        )
    return _report_errors(errors)


class _InOrder:
    """Prints several texts one after another although they grow at the same time."""

    def __init__(self, count: int, beginnings: list[str] | None) -> None:
        self._waiting = list(beginnings or [""] * count)
        self._finished = [False] * count
        self._current = 0
        self._flush()

    def add(self, place: int, text: str, finish_reason: FinishReason | None) -> None:
        self._waiting[place] += text
        self._finished[place] = finish_reason is not None
        self._flush()

    def _flush(self) -> None:
        while self._current < len(self._waiting):
            sys.stdout.write(self._waiting[self._current])
            self._waiting[self._current] = ""
            if not self._finished[self._current]:
                break
            self._current += 1
            if self._current < len(self._waiting):
                sys.stdout.write("\n")
        sys.stdout.flush()


def _prompt_texts(llm: LLM, prompts: list[Any], repeats: int) -> list[str]:
    def text(prompt: Any) -> str:
        if isinstance(prompt, str):
            return prompt
        return llm.tokenizer.decode(prompt) if llm.tokenizer else ""

    return [text(prompt) for prompt in prompts for _ in range(repeats)]


def _report_errors(errors) -> int:
    found = [error for error in errors if error]
    for error in found:
        print(f"jinfer: error: {error}", file=sys.stderr)
    return EXIT_ERROR if found else EXIT_OK


def _convert(options: argparse.Namespace) -> int:
    """`jinfer convert`: a Hugging Face directory becomes an Orbax checkpoint, in the dtype of its weights."""
    check_is_new(options.out)
    directory = resolve_model_directory(options.model)
    raw = read_json(directory / "config.json")
    dtype = options.dtype or raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if dtype not in CONVERTED_DTYPES:
        raise ConfigError(f"config.json names the dtype {dtype!r}; give --dtype, one of {', '.join(get_args(DType))}")
    model = build_model(read_model_config(raw), jnp.dtype(dtype), "reference")
    save_orbax(load_checkpoint(model, directory, progress=sys.stderr.isatty()), directory, options.out)
    print(f"wrote {options.out} in {dtype}; use it with --model {options.out}", file=sys.stderr)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jinfer", description="Large language models in JAX on NVIDIA GPUs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="complete prompts", description=_generate.__doc__))
    bench = commands.add_parser("bench", help="measure an engine beside the machine's limits")
    add_bench(bench, _add_engine_options, _engine_options)
    convert = commands.add_parser("convert", help="convert a checkpoint", description=_convert.__doc__)
    convert.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID")
    convert.add_argument("--to", required=True, choices=["orbax"], help="the format to write")
    convert.add_argument("--dtype", choices=get_args(DType))
    convert.add_argument("out", type=Path, help="a directory that does not exist yet")
    convert.set_defaults(run=_convert)
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add("--model", metavar="DIR_OR_HUB_ID", help="default: the small model that ships with jinfer")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times; '' is the BOS token alone")
    add("--prompt-token-ids", action="append", type=_token_ids, metavar="1,2,3", help="token ids instead of text")
    add("--echo", action="store_true", help="print each prompt before its completion")
    add("--json", action="store_true", help="print one JSON object per prompt")

    sampling = parser.add_argument_group("sampling (default: the model's generation_config.json, else 1, 1, 0, 0)")
    sampling.add_argument("--n", type=int, help="completions of each prompt")
    sampling.add_argument("--max-tokens", type=int, metavar="N", help="default: the rest of the context")
    sampling.add_argument("--min-tokens", type=int, metavar="N")
    sampling.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    sampling.add_argument("--top-p", type=float, metavar="P")
    sampling.add_argument("--top-k", type=int, metavar="K")
    sampling.add_argument("--min-p", type=float, metavar="P")
    sampling.add_argument("--seed", type=int, help="the same seed gives the same tokens")
    sampling.add_argument("--stop", action="append", metavar="TEXT", help="ends the output; may be given several times")
    sampling.add_argument("--ignore-eos", action="store_true", help="go on after the end of sequence")
    sampling.add_argument(
        "--logprobs", type=int, metavar="K", help="with --json: the K most likely tokens of each step"
    )

    _add_engine_options(parser)
    parser.set_defaults(run=_generate)


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument("--dtype", choices=get_args(DType), help="default: bfloat16 on a GPU, float32 on a CPU")
    engine.add_argument("--attention", choices=get_args(Attention), default=EngineConfig.attention)
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


def _engine_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as keyword arguments of LLM."""
    given = {name: getattr(options, name) for name in ENGINE_OPTIONS if getattr(options, name) is not None}
    return {"attention": options.attention, "dummy_weights": options.dummy_weights, **given}


def _token_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of token ids such as 1,2,3") from None


def _length_or_auto(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor auto") from None
