"""Perplexity of a model by the types of its weights and its cache: `python -m
benchmarks.quantization.accuracy --stories FILE [--model DIR]`.

FILE is a JSON list of texts. The first half is what scales are calibrated on, and the other half what is
scored. A line of JSON is printed for each type, with the perplexity, and how much it is above that of the
floats, and of another type that was measured before; each with the standard error over the windows of the
text.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.record import circumstances
from jinfer import cli
from jinfer.config import EngineConfig, KVCacheDType
from jinfer.eval.engine_run import open_engine
from jinfer.eval.perplexity import TextScore, perplexity_of, score_text
from jinfer.eval.tokenized_text import TokenizedText, need_tokenizer
from jinfer.eval.windows import WindowSizes
from jinfer.startup import resolve_checked
from jinfer.weights.hub import resolve_model_directory

ENGINE = {"dtype": "float32", "max_num_seqs": 1, "max_num_batched_tokens": 512, "progress": False}
"""Sums in float32, so that what differs is rounding weights and activations alone."""
CALIBRATED, STATIC = "--calibration", "--static"


class Case(NamedTuple):
    """A way to store weights, as words of `jinfer convert` (none: the floats as they are), the cache's dtype,
    and the case that it ought to be better than."""

    weights: tuple[str, ...]
    cache: KVCacheDType = "auto"
    rival: str | None = None


CASES = {
    "floats, int8 cache": Case((), "int8"),
    "floats, fp8 cache": Case((), "fp8_e4m3"),
    "W8A8 int8": Case(("int8",)),
    "W8A8 int8, smoothed": Case(("int8", CALIBRATED)),
    "W8A8 int8, smoothed, static": Case(("int8", CALIBRATED, STATIC)),
    "W8A8 fp8": Case(("fp8",)),
    "W8A8 fp8, static": Case(("fp8", CALIBRATED, STATIC)),
    "W4A16, nearest": Case(("int4",)),
    "W4A16, AWQ": Case(("int4", CALIBRATED), rival="W4A16, nearest"),
    "W4A16, AWQ, int8 cache": Case(("int4", CALIBRATED), "int8"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="default: the model that ships with jinfer")
    parser.add_argument("--stories", type=Path, required=True, metavar="FILE")
    parser.add_argument("--group-size", type=int, default=128, help="of four bits; default 128")
    parser.add_argument("--max-tokens", type=int, default=40_000, help="that are scored; default 40000")
    parser.add_argument("--case", action="append", choices=CASES, help="one of the table; default: all")
    options = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m benchmarks.quantization.accuracy", *words])
    for line in measure(options):
        print(json.dumps({**line, **circumstances(command)}), flush=True)


def measure(options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """The figures of the floats, and then of each case."""
    directory = resolve_model_directory(options.model)
    stories = json.loads(options.stories.read_text("utf-8"))
    halves = ["\n\n".join(half) for half in (stories[: len(stories) // 2], stories[len(stories) // 2 :])]
    floats = score(directory, halves[1], options.max_tokens)
    yield figures(directory, "floats", floats, floats)
    scores: dict[str, TextScore] = {}
    with tempfile.TemporaryDirectory() as place:
        calibration = Path(place) / "calibration.txt"
        calibration.write_text(halves[0], encoding="utf-8")
        for number, name in enumerate(options.case or CASES):
            case, scored = CASES[name], directory
            if case.weights:
                scored = Path(place) / str(number)
                convert(directory, scored, case.weights, calibration, options.group_size)
            scores[name] = score(scored, halves[1], options.max_tokens, case.cache)
            yield figures(directory, name, scores[name], floats, scores.get(case.rival or ""))


def convert(directory: Path, out: Path, choice: tuple[str, ...], calibration: Path, group_size: int) -> None:
    """Writes a quantized checkpoint as `jinfer convert` does."""
    words = ["convert", "--model", str(directory), "--quantize", *choice]
    words += ["--group-size", str(group_size)] if "int4" in choice else []
    if CALIBRATED in words:
        words.insert(words.index(CALIBRATED) + 1, str(calibration))
    if cli.main([*words, str(out)]) != 0:
        raise SystemExit(f"jinfer {' '.join(words)} failed")


def score(directory: Path, content: str, max_tokens: int, cache: KVCacheDType = "auto") -> TextScore:
    """The score of a text by the model of a directory, in windows of its context."""
    config = EngineConfig.from_options({**ENGINE, "kv_cache_dtype": cache})
    resolved = resolve_checked(directory, config)
    text = TokenizedText.of(content, need_tokenizer(resolved.tokenizer, str(directory)), max_tokens)
    with open_engine(resolved, config) as run:
        limits, prefix = run.parts.limits, len(text.prefix)
        sizes = WindowSizes.of(None, None, max_model_len=limits.max_model_len, num_prefix=prefix)
        return score_text(run, text, sizes, progress=False)[0]


def figures(
    directory: Path, name: str, scored: TextScore, floats: TextScore, rival: TextScore | None = None
) -> dict[str, object]:
    """The perplexity of a case, and its share above that of the floats, and of its rival if there is one."""
    line = {
        "model": directory.name,
        "weights": name,
        "perplexity": perplexity_of(scored.mean_nll),
        **percent_above(scored, floats, ""),
        "scored_tokens": scored.num_scored,
    }
    return line if rival is None else {**line, **percent_above(scored, rival, "_rival")}


def percent_above(scored: TextScore, other: TextScore, suffix: str) -> dict[str, float | None]:
    """The share by which a perplexity is above another of the same text, and its standard error.

    The error is that of a ratio: the mean difference of a token is that of all tokens, and windows, which are
    independent, differ from it. It says how the share would vary between texts.
    """
    above = perplexity_of(scored.mean_nll - other.mean_nll)
    assert above is not None, "perplexities of one text are near each other"
    error = standard_error(scored, other)
    return {
        f"percent_above{suffix}": 100 * (above - 1),
        f"percent_standard_error{suffix}": None if error is None else 100 * above * error,
    }


def standard_error(scored: TextScore, other: TextScore) -> float | None:
    """The standard error of the difference of the mean negative log likelihoods of two scores of a text, in
    nats, from the differences of each window; None for a text of one window."""
    differences = np.subtract(scored.window_nlls, other.window_nlls)
    tokens, count = np.array(scored.window_scored), len(differences)
    if count < 2:
        return None
    residuals = differences - tokens * (differences.sum() / tokens.sum())
    return math.sqrt(count / (count - 1) * float((residuals**2).sum())) / int(tokens.sum())


if __name__ == "__main__":
    main()
