"""The table of the results: what was recorded of the engine, beside the machine's limit and vLLM.

    python -m benchmarks.engine table [--device nvidia-h200]

Reads the newest line of each id in results/<device>/engine.jsonl, which `jinfer bench ... --record` writes.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import RESULTS
from jinfer.bench.output import FILE_NAME
from jinfer.bench.record import newest_lines

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
ORDER = ("b1", "b16-1024", "b64-1024", "b64-2048", "b256-512", "mixed256", "256x1024", "1000x1024", "prefill",
         "ttft-512", "ttft-2048", "ttft-8192", "ttft-15000", "start-cold", "start-warm", "shared-prefix",
         "azure-p99-tpot")  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["table"])
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--device", default="nvidia-h200", help="the name of a directory of results")
    options = parser.parse_args(arguments)
    file = options.results / options.device / FILE_NAME
    if not file.is_file():
        raise SystemExit(f"there is no {file}: run `jinfer bench ... --record` on that device")
    other = json.loads((RESULTS / OTHER).read_text())
    print("\n".join(table(newest_lines(file), other)))
    return 0


def table(lines: Mapping[str, Mapping[str, Any]], other: Mapping[str, Any]) -> Iterator[str]:
    """A row for each workload that was recorded, model after model. The last column is how many times as fast."""
    yield f"| model | workload | {other['engine']} | jinfer | limit | of limit | beside {other['engine'].split()[0]} |"
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
    """What an id stands for, for readers."""
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
