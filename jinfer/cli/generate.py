"""`jinfer generate`."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from jinfer.cli.options import add_engine_options, add_sampling_options, engine_options, sampling_params, token_ids
from jinfer.cli.output import InOrder, json_line, report_errors
from jinfer.errors import RequestError
from jinfer.llm import LLM
from jinfer.request import FinishReason
from jinfer.sampling_params import SamplingParams


def add_generate(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("generate", help="complete prompts", description=_generate.__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("--model", metavar="DIR_OR_HUB_ID", help="default: the small model that ships with jinfer")
    add("--prompt", action="append", metavar="TEXT", help="may be given several times; '' is the BOS token alone")
    add("--prompt-token-ids", action="append", type=token_ids, metavar="1,2,3", help="token ids instead of text")
    add("--echo", action="store_true", help="print each prompt before its completion")
    add("--json", action="store_true", help="print one JSON object per prompt")
    add_sampling_options(parser)
    add_engine_options(parser)
    parser.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    """`jinfer generate`: text as it becomes final, prompt after prompt, or a line of JSON for each."""
    prompts: list[Any] = [*(options.prompt or ()), *(options.prompt_token_ids or ())]
    if not prompts:
        raise RequestError("nothing to complete; give --prompt TEXT (several times for several) or --prompt-token-ids")
    params = sampling_params(options)
    with LLM(options.model, progress=sys.stderr.isatty(), **engine_options(options)) as llm:
        return _print_json(llm, prompts, params) if options.json else _print_text(llm, prompts, params, options.echo)


def _print_json(llm: LLM, prompts: list[Any], params: SamplingParams) -> int:
    outputs = llm.generate(prompts, params)
    for output in outputs:
        print(json_line(output), flush=True)
    return report_errors(completion.error for output in outputs for completion in output.outputs)


def _print_text(llm: LLM, prompts: list[Any], params: SamplingParams, echo: bool) -> int:
    """Streams the completions in the order of the prompts, a line feed between two of them."""
    pieces = llm.stream(prompts, params)  # checks all prompts before anything is printed
    printer = InOrder(len(prompts) * params.n, _prompt_texts(llm, prompts, params.n) if echo else None)
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
    return report_errors(errors)


def _prompt_texts(llm: LLM, prompts: list[Any], repeats: int) -> list[str]:
    def text(prompt: Any) -> str:
        if isinstance(prompt, str):
            return prompt
        return llm.tokenizer.decode(prompt) if llm.tokenizer else ""

    return [text(prompt) for prompt in prompts for _ in range(repeats)]
