"""Results of the engine: recorded, and as a table beside the machine's limit and vLLM.

    python -m benchmarks.engine record [--results DIR] latency b1 b64-1024 --config CONFIG_DIR
    python -m benchmarks.engine table [--results DIR] [--device nvidia-h200]

`record` runs `jinfer bench` with the words after it, and appends a line for each result to
results/<device>/engine.jsonl; the newest line of an id counts.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import ProcessError, append, jinfer_bench
from benchmarks.record import ENGINE_FILE, RESULTS, newest_lines

OTHER = "vllm-0.20.2-h200.json"
MODELS = {"8b": "Qwen3-8B", "06b": "Qwen3-0.6B"}
WORKLOADS = (
    (r"b1", "1 request, 128 in: TPOT"),
    (r"b(\d+)-(\d+)", "{0} requests, {1} in: TPOT"),
    (r"mixed256", "mixed256: output"),
    (r"(\d+)x(\d+)", "{0} x ({1} in, 128 out): output"),
    (r"prefill", "prefill 32 x 2,048: input"),
    (r"ttft-(\d+)", "TTFT, {0} in"),
    (r"start-(cold|warm)", "start to ready, {0} compilation cache"),
    (r"shared-prefix", "16 requests that share 4,096 tokens: TTFT, sooner by"),
    (r"azure-p99-tpot", "Azure trace at twice its rate: p99 TPOT"),
)
ORDER = (
    "b1",
    "b16-1024",
    "b64-1024",
    "b64-2048",
    "b256-512",
    "mixed256",
    "256x1024",
    "1000x1024",
    "prefill",
    "ttft-512",
    "ttft-2048",
    "ttft-8192",
    "ttft-15000",
    "start-cold",
    "start-warm",
    "shared-prefix",
    "azure-p99-tpot",
)


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where all was recorded, or the table printed as Markdown."""
    options = _options(arguments)
    return options.run(options)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("record", help="measure, and keep what was measured")
    command.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    command.add_argument("words", nargs=argparse.REMAINDER, help="of `jinfer bench`")
    command.set_defaults(run=_record)
    command = commands.add_parser("table", help="what was recorded, as Markdown")
    command.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    command.add_argument("--device", default="nvidia-h200", help="the name of a directory of results")
    command.set_defaults(run=_table)
    return parser.parse_args(arguments)


def _record(options: argparse.Namespace) -> int:
    """Records each result as soon as it is measured. A result above its limit is an error, and is not
    recorded."""
    if not os.access(options.results, os.W_OK):
        raise SystemExit(f"{options.results} is no directory that can be written; give --results DIR")
    try:
        for line in jinfer_bench(*options.words):
            append(options.results, [line])
            print(
                f"{line['id']:<30}{_amount(line):>20}  limit {_amount({**line, 'value': line['limit']})}",
                flush=True,
            )
    except (ProcessError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _table(options: argparse.Namespace) -> int:
    file = options.results / options.device / ENGINE_FILE
    if not file.is_file():
        raise SystemExit(f"there is no {file}: run `python -m benchmarks.engine record ...` on that device")
    other = json.loads((RESULTS / OTHER).read_text())
    print("\n".join(table(newest_lines(file), other)))
    return 0


def table(lines: Mapping[str, Mapping[str, Any]], other: Mapping[str, Any]) -> Iterator[str]:
    """Yields a row for each recorded workload, model after model. The last column says how many times as fast
    jinfer is."""
    engine = other["engine"]
    yield f"| model | workload | {engine} | jinfer | limit | of limit | beside {engine.split()[0]} |"
    yield "|---|---|---|---|---|---|---|"
    for prefix, model in MODELS.items():
        for suffix in ORDER:
            line = lines.get(f"{prefix}-{suffix}")
            if line is None:
                continue
            theirs = other["figures"].get(line["id"])
            limit, percent = _amount({**line, "value": line["limit"]}), f"{line['percent_of_limit']:.0f}%"
            cells = (model, described(suffix), _amount(theirs), f"**{_amount(line)}**", limit, percent)
            yield f"| {' | '.join(cells)} | {_ratio(line, theirs)} |"


def described(suffix: str) -> str:
    """The description of the workload of an id."""
    for pattern, text in WORKLOADS:
        found = re.fullmatch(pattern, suffix)
        if found:
            return text.format(*(f"{int(group):,}" if group.isdigit() else group for group in found.groups()))
    raise AssertionError(f"no description of {suffix}")


def _amount(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    value, unit = figure["value"], figure["unit"]
    if unit == "ratio":
        return f"{value:.1f}x"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _ratio(line: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> str:
    if theirs is None:
        return "-"
    assert theirs["unit"] == line["unit"], line["id"]
    is_rate = line["unit"].endswith("/s")
    return f"{line['value'] / theirs['value'] if is_rate else theirs['value'] / line['value']:.2f}x"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
