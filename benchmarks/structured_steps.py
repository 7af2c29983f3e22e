"""Where the time of a step with masks goes, beside that of a free one.

    python -m benchmarks.structured_steps --config DIR --tokenizer DIR [--rows 200] [--tokens 128]

Runs as many requests at once, free and under a schema, and prints a line of JSON for each: the milliseconds
between two steps, and the medians of the parts of `Engine.step`. `read` has the wait for the device, `accept`
what follows from the tokens, `fill` the masks and `choose` their way to the device. A free step has one half
(`dispatch`), and plans while the device computes; in one with masks the host works between two tokens, and
what it takes beyond the first half's time is lost.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import jinfer.engine.engine as engine_module
from benchmarks.host_step import Stopwatch
from benchmarks.serving.served import ITEM
from jinfer import LLM
from jinfer.bench.arguments import positive
from jinfer.bench.opening import assigned_options
from jinfer.bench.session import TEMPERATURE
from jinfer.weights.hub import read_json

PROMPT_LENGTH = 128
FREE, STRUCTURED = "free", "structured"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures one engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="a directory with a config.json")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--rows", type=positive(int), default=200)
    parser.add_argument("--tokens", type=positive(int), default=128)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the engine")
    options = parser.parse_args(arguments)
    config = read_json(options.config / "config.json")
    engine_options = {"compile_split_steps": "at_start", **assigned_options(options.set)}
    with LLM(config, dummy_weights=True, tokenizer=options.tokenizer, **engine_options) as llm:
        for name, parts in measure(llm, options.rows, options.tokens).items():
            print(json.dumps({"steps": name, "rows": options.rows, "unit": "ms", **parts}))


def measure(llm: LLM, num_rows: int, num_tokens: int) -> dict[str, dict[str, float]]:
    """Milliseconds of the parts of free and of structured steps, each kind run twice and measured the second
    time."""
    schema = {"type": "array", "items": ITEM, "minItems": num_tokens}
    all_fields: dict[str, dict[str, Any]] = {FREE: {}, STRUCTURED: {"structured_outputs": {"json": schema}}}
    prompts = [[row % 100 + 1] * PROMPT_LENGTH for row in range(num_rows)]
    bounds: dict[str, Any] = {"max_tokens": num_tokens, "ignore_eos": True, "temperature": TEMPERATURE}
    found = {}
    for name, fields in all_fields.items():
        llm.generate(prompts, **bounds, **fields)
        watch = Stopwatch()
        with _timed(llm, watch):
            began = time.perf_counter()
            llm.generate(prompts, **bounds, **fields)
            total_ms = (time.perf_counter() - began) * 1e3
        found[name] = _medians(watch.microseconds, total_ms / num_tokens)
    return found


def _timed(llm: LLM, watch: Stopwatch) -> ExitStack:
    """Times what an engine calls in a step until the stack is closed."""
    engine = llm.engine
    parts = {
        "step": (engine, "step"),
        "schedule": (engine.scheduler, "schedule"),
        "dispatch": (engine.executor, "dispatch"),
        "begin": (engine.executor, "begin"),
        "accept": (engine, "read"),
        "read": (engine.executor, "read"),
        "fill": (engine_module, "fill"),
        "choose": (engine.executor, "choose"),
    }
    stack = ExitStack()
    for name, (owner, attribute) in parts.items():
        stack.enter_context(mock.patch.object(owner, attribute, watch.timed(name, getattr(owner, attribute))))
    return stack


def _medians(microseconds: Mapping[str, Sequence[float]], period_ms: float) -> dict[str, float]:
    """The medians of the parts that were called, `accept` without the `read` in it."""
    called = {name: statistics.median(times) / 1e3 for name, times in microseconds.items() if times}
    called["accept"] -= called["read"]
    return {"period": round(period_ms, 3), **{name: round(ms, 3) for name, ms in called.items()}}


if __name__ == "__main__":
    main()
