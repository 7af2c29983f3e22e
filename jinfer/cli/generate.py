"""`jinfer generate`."""

import argparse
import contextlib
import sys
import time
from collections.abc import Generator
from typing import Any, cast

from jinfer.cli.options import (
    add_engine_options,
    add_sampling_options,
    argument_text,
    engine_options,
    json_object,
    sampling_params,
    token_ids,
)
from jinfer.cli.output import InOrder, check_stdout, json_line, report_errors, speed
from jinfer.config import EngineConfig
from jinfer.errors import RequestError
from jinfer.llm import LLM
from jinfer.requests.echo import Echo
from jinfer.requests.outputs import RequestOutput, StreamPiece
from jinfer.requests.prompts import as_params, as_prompts
from jinfer.requests.request import FinishReason
from jinfer.requests.sampling_params import SamplingParams
from jinfer.startup import resolve_checked


def add_generate(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("generate", help="complete prompts", description=_generate.__doc__)
    parser.add_argument(
        "--model", metavar="DIR_OR_HUB_ID", help="default: the small model that ships with jinfer"
    )
    prompt: dict[str, Any] = {"action": "append", "dest": "prompts", "default": []}
    parser.add_argument(
        "--prompt",
        type=argument_text,
        metavar="TEXT",
        help="may be given several times; '' is the BOS token alone",
        **prompt,
    )
    parser.add_argument(
        "--prompt-token-ids",
        type=token_ids,
        metavar="1,2,3",
        help="token ids instead of text; may be mixed with it",
        **prompt,
    )
    parser.add_argument(
        "--echo",
        action="store_true",
        help="print each prompt before its completion, text as it was given; with --json it is there anyway",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per prompt")
    sampling = add_sampling_options(parser)
    sampling.add_argument("--n", type=int, help="completions of each prompt")
    sampling.add_argument(
        "--logprobs", type=int, metavar="K", help="with --json: the K most likely tokens of each step"
    )
    sampling.add_argument(
        "--prompt-logprobs", type=int, metavar="K", help="with --json: the same of each token of the prompt"
    )
    sampling.add_argument(
        "--bad-words", action="append", type=argument_text, metavar="TEXT", help="kept out of the output"
    )
    sampling.add_argument(
        "--structured-outputs",
        type=json_object,
        metavar="JSON",
        help="""a rule that the output fits, as '{"regex": "[0-9]+"}' or '{"json": {...}}'""",
    )
    add_engine_options(parser)
    parser.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    """`jinfer generate`: text as it becomes final, prompt after prompt, or a line of JSON for each."""
    prompts = options.prompts
    if not prompts:
        raise RequestError(
            "nothing to complete; give --prompt TEXT (several times for several) or --prompt-token-ids"
        )
    for name, count in (("--logprobs", options.logprobs), ("--prompt-logprobs", options.prompt_logprobs)):
        if count is not None and not options.json:
            raise RequestError(f"{name} {count} cannot be printed as text; add --json, or leave it out")
    params = sampling_params(options)
    chosen = engine_options(options)
    config = EngineConfig.from_options(chosen)
    check_stdout()
    params_of_each = as_params(params, {}, len(prompts))
    resolved = resolve_checked(options.model, config, prompts=as_prompts(prompts), params=params_of_each)
    with LLM(resolved, **chosen) as llm:
        return (
            _print_json(llm, prompts, params)
            if options.json
            else _print_text(llm, prompts, params, options.echo)
        )


def _print_json(llm: LLM, prompts: list[Any], params: SamplingParams) -> int:
    """Prints the outputs in the order of the prompts, also after Ctrl-C or a fault those that had ended."""
    outputs: dict[int, RequestOutput] = {}
    try:
        for index, output in llm.as_completed(prompts, params):
            outputs[index] = output
    finally:
        for index in sorted(outputs):
            sys.stdout.write(json_line(outputs[index], sys.stdout.encoding) + "\n")
    return report_errors(completion.error for output in outputs.values() for completion in output.outputs)


def _print_text(llm: LLM, prompts: list[Any], params: SamplingParams, echo: bool) -> int:
    """Streams the completions in the order of the prompts, a line feed between two of them."""
    # All prompts are checked here, before anything is printed.
    pieces = cast(Generator[StreamPiece, None, None], llm.stream(prompts, params))
    echoes = [Echo(prompt if echo else "", llm.tokenizer) for prompt in prompts for _ in range(params.n)]
    started, num_tokens, first_token, errors = time.perf_counter(), 0, None, []
    with contextlib.closing(pieces):  # what still runs is aborted, also where the text cannot be written
        printer = InOrder([one.text for one in echoes])
        for piece in pieces:
            first_token = first_token or time.perf_counter()
            num_tokens += len(piece.token_ids)
            index = piece.prompt_index * params.n + piece.output_index
            printer.add(index, echoes[index].end_before(piece) + piece.text, piece.finish_reason)
            if piece.finish_reason is FinishReason.ERROR:
                errors.append(f"prompts[{piece.prompt_index}]: {piece.error}")
    if sys.stdout.isatty():
        print(file=sys.stderr)
    if first_token is not None:
        elapsed_s = time.perf_counter() - started
        print(speed(num_tokens, elapsed_s, first_token_s=first_token - started), file=sys.stderr)
    return report_errors(errors)
