"""Whole models with options of their own, each row under the id that it is asked for by.

    python -m benchmarks.whole_models CONFIGS [ID ...] [--record] [--set NAME=VALUE] [--repeats 3]

CONFIGS has a directory with a config.json of each model, as Qwen3-8B; those that it lacks may be in
benchmarks/configs. No ID means all. Rows that share an engine, a kind of `jinfer bench` and its --output-len
are measured by one process. --record appends each to `benchmarks/results/<device>/<file of the row>`; --set
adds an option to every engine.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ProcessError, jinfer_bench, result_directory
from benchmarks.record import RESULTS, Line, append
from jinfer.bench.arguments import positive

CONFIGS = Path(__file__).parent / "configs"
QUANTIZATION, MODELS = "quantization.jsonl", "models.jsonl"
DECODES_A_BATCH = ("scheduling_policy=prefill_first",)  # all prompts first: then TPOT is of full batches
KV8, FP8, INT8, W4 = (
    ("kv_cache_dtype=int8",),
    ("quantization=fp8",),
    ("quantization=int8",),
    ("quantization=int4",),
)
FP8KV8 = (*FP8, *KV8)


@dataclass(frozen=True)
class Engine:
    """The directory of a config.json, and options as `jinfer bench --set` takes them."""

    model: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A workload of `jinfer bench KIND` on an engine, and the file of results that has its id."""

    engine: Engine
    kind: str
    workload: str
    file: str = QUANTIZATION
    output_len: int | None = None


def _latency(model: str, workload: str, *options: str, file: str = QUANTIZATION) -> Row:
    return Row(Engine(model, (*options, *DECODES_A_BATCH)), "latency", workload, file)


def _throughput(
    model: str, workload: str, *options: str, file: str = QUANTIZATION, output_len: int | None = None
) -> Row:
    return Row(Engine(model, options), "throughput", workload, file, output_len)


ROWS: Mapping[str, Row] = {
    "30b-a3b-b1": _latency("Qwen3-30B-A3B", "b1", file=MODELS),
    "30b-a3b-b64-1024": _latency("Qwen3-30B-A3B", "b64-1024", file=MODELS),
    "8b-b64-1024-fp8kv8": _latency("Qwen3-8B", "b64-1024", *FP8KV8),
    "8b-b256-512-fp8kv8": _latency("Qwen3-8B", "b256-512", *FP8KV8),
    "8b-b1-w4": _latency("Qwen3-8B", "b1", *W4),
    "v2-lite-b64-2048": _latency("DeepSeek-V2-Lite", "b64-2048", file=MODELS),
    "06b-mixed256-kv8": _throughput("Qwen3-0.6B", "mixed256", *KV8),
    "8b-mixed256-kv8": _throughput("Qwen3-8B", "mixed256", *KV8),
    "gemma3-4b-b64-1024": _latency("gemma-3-4b", "b64-1024", file=MODELS),
    "8b-mixed256-fp8kv8": _throughput("Qwen3-8B", "mixed256", *FP8KV8),
    "30b-a3b-mixed256": _throughput("Qwen3-30B-A3B", "mixed256", file=MODELS),
    "8b-b1-fp8": _latency("Qwen3-8B", "b1", *FP8),
    "8b-prefill-fp8": _throughput("Qwen3-8B", "prefill-32x2048", *FP8),
    "8b-prefill-int8": _throughput("Qwen3-8B", "prefill-32x2048", *INT8),
    "gpt-oss-20b-1000x1000": _throughput("gpt-oss-20b", "256x1000", file=MODELS, output_len=1000),
}


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every row was measured."""
    options = _options(arguments)
    failed = []
    for ids in _together(options.ids or list(ROWS)):
        try:
            for row_id, line in _measured(options, ids):
                print(json.dumps(line), flush=True)
                if options.record:
                    append(result_directory(options.results, [line]) / ROWS[row_id].file, [line])
        except (ProcessError, ValueError) as error:
            print(f"{', '.join(ids)}: {error}", file=sys.stderr, flush=True)
            failed += ids
    return 1 if failed else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.whole_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", type=Path, metavar="CONFIGS")
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--record", action="store_true", help="append to the results of this device")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--repeats", type=positive(int), default=3)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.ids) - set(ROWS))
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return options


def _together(ids: Sequence[str]) -> list[list[str]]:
    """The rows that one process measures, in the order of the first of each."""
    found = defaultdict(list)
    for row_id in ids:
        row = ROWS[row_id]
        found[row.engine, row.kind, row.output_len].append(row_id)
    return list(found.values())


def _measured(options: argparse.Namespace, ids: Sequence[str]) -> Iterator[tuple[str, Line]]:
    """The lines of rows that one process measures, as they come."""
    first = ROWS[ids[0]]
    words = [first.kind, *(ROWS[row_id].workload for row_id in ids)]
    words += ["--config", str(_directory(options.configs, first.engine.model))]
    words += ["--repeats", str(options.repeats)]
    words += [] if first.output_len is None else ["--output-len", str(first.output_len)]
    words += [word for option in (*first.engine.options, *options.set) for word in ("--set", option)]
    for row_id, line in zip(ids, jinfer_bench(*words), strict=True):
        line = {name: value for name, value in line.items() if name != "details"}
        yield row_id, {**line, "id": row_id}


def _directory(configs: Path, model: str) -> Path:
    given = configs / model
    return given if given.exists() else CONFIGS / model


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
