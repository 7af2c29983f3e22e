"""`jinfer eval perplexity | compare`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinfer.bench.arguments import positive
from jinfer.bench.circumstances import circumstances
from jinfer.bench.json_lines import JsonLines, command_text, open_json_lines
from jinfer.cli.exit_status import EXIT_OK
from jinfer.cli.options import add_engine_options, engine_options
from jinfer.cli.output import check_stdout
from jinfer.config import EngineConfig
from jinfer.eval.compare import check_comparable, compare_models
from jinfer.eval.continuations import ContinuationSizes
from jinfer.eval.engine_run import open_engine
from jinfer.eval.perplexity import score_text
from jinfer.eval.tokenized_text import TokenizedText, need_tokenizer, read_text
from jinfer.eval.windows import WindowSizes
from jinfer.startup import longest_limits, resolve_checked

DEMO_NAME = "the model that ships with jinfer"
PERPLEXITY = "perplexity, mean negative log likelihood and bits per byte of a text"
COMPARE = "KL divergence, top-1 agreement and perplexities of two models with one tokenizer"
WINDOWS = """What the tokenizer puts before a text (BOS) stands before each window and is not scored; where it
puts nothing, the first token of each window has nothing to be predicted from. With a stride below the window,
a token that two windows have is scored in the first of them, and the second reads it as context. See
docs/eval.md."""


def add_eval(commands: Any) -> None:
    """Adds the commands."""
    about = "measure how well a model predicts a text, and how two models differ"
    kinds = commands.add_parser("eval", help=about).add_subparsers(required=True, metavar="KIND")
    perplexity = kinds.add_parser("perplexity", help=PERPLEXITY, description=f"{PERPLEXITY}. {WINDOWS}")
    perplexity.add_argument("--model", metavar="DIR_OR_HUB_ID", help=f"default: {DEMO_NAME}")
    _add_text(perplexity)
    add_engine_options(perplexity)
    perplexity.set_defaults(run=_perplexity)

    compare = kinds.add_parser("compare", help=COMPARE, description=f"{COMPARE}. {WINDOWS}")
    compare.add_argument("a", metavar="A", help="a directory or hub id: the model to be compared with")
    compare.add_argument("b", metavar="B", help="another: its quantized form, for example")
    _add_text(compare)
    _add_continuations(compare)
    add_engine_options(compare)
    compare.set_defaults(run=_compare)


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="any text in UTF-8")
    for name, about in (
        ("window", "tokens of text that are read at a time; default: the context, at most 2048"),
        ("stride", "tokens from the beginning of a window to the next; default: the window"),
        ("max-tokens", "read only the first tokens of the text"),
    ):
        parser.add_argument(f"--{name}", type=positive(int), metavar="N", help=about)
    parser.add_argument(
        "--json", metavar="FILE", help="the figures as a line of JSON; - is stdout, without the table"
    )


def _add_continuations(parser: argparse.ArgumentParser) -> None:
    for name, default, about in (
        ("num-prompts", 32, "prompts from the text that both continue greedily"),
        ("prompt-tokens", 64, "length of each prompt"),
        ("output-tokens", 64, "length of each continuation"),
    ):
        parser.add_argument(
            f"--{name}", type=positive(int), default=default, metavar="N", help=f"{about}; default {default}"
        )


def _perplexity(options: argparse.Namespace) -> int:
    config = EngineConfig.from_options(engine_options(options))
    check_stdout()
    content = read_text(options.text)
    resolved = resolve_checked(options.model, config)
    tokenizer = need_tokenizer(resolved.tokenizer, options.model or DEMO_NAME)
    text = TokenizedText.of(content, tokenizer, options.max_tokens)
    sizes = _window_sizes(options, text, longest_limits(resolved, config).max_model_len)
    with open_json_lines("--json", options.json) as json_lines:
        with open_engine(resolved, config) as run:
            sizes.check(max_model_len=run.parts.limits.max_model_len, num_prefix=len(text.prefix))
            score, seconds = score_text(run, text, sizes, progress=config.progress)
        speed = {"seconds": seconds, "tokens_per_s": score.num_scored / seconds}
        model = Path(options.model).name if options.model else "demo"
        _report({"model": model, "text": options.text.name, **score.fields(), **speed}, options, json_lines)
    return EXIT_OK


def _compare(options: argparse.Namespace) -> int:
    config = EngineConfig.from_options(engine_options(options))
    check_stdout()
    content = read_text(options.text)
    models = [resolve_checked(model, config) for model in (options.a, options.b)]
    check_comparable(*models)
    text = TokenizedText.of(content, need_tokenizer(models[0].tokenizer, options.a), options.max_tokens)
    max_model_len = min(longest_limits(model, config).max_model_len for model in models)
    sizes = _window_sizes(options, text, max_model_len)
    continuations = ContinuationSizes(options.num_prompts, options.prompt_tokens, options.output_tokens)
    continuations.check(max_model_len=max_model_len, num_prefix=len(text.prefix))
    with open_json_lines("--json", options.json) as json_lines:
        result = compare_models(models, config, text, sizes, continuations)
        names = {"a": Path(options.a).name, "b": Path(options.b).name, "text": options.text.name}
        _report({**names, **result.fields()}, options, json_lines)
    return EXIT_OK


def _window_sizes(options: argparse.Namespace, text: TokenizedText, max_model_len: int) -> WindowSizes:
    return WindowSizes.of(
        options.window, options.stride, max_model_len=max_model_len, num_prefix=len(text.prefix)
    )


def _report(figures: Mapping[str, Any], options: argparse.Namespace, json_lines: JsonLines) -> None:
    """A line of stdout for each figure, unless JSON is there; and the line of JSON."""
    if not json_lines.is_on_stdout:
        width = max(map(len, figures))
        for name, value in figures.items():
            shown = f"{value:,.6g}" if isinstance(value, float) else value
            print(f"{name.replace('_', ' '):{width}}  {shown}")
    json_lines.write({**figures, **circumstances(command_text(["jinfer", *options.words]))})
