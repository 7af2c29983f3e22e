"""The command line. See the package."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmarks.compare as package
from benchmarks.compare.engines import ENGINES
from benchmarks.compare.workloads import comparable_workload
from benchmarks.processes import ProcessError, json_lines
from jinfer.bench.opening import assigned_options
from jinfer.errors import ConfigError

NOT_INSTALLED, FAILED = "not installed", "failed"
Cell = dict[str, Any] | str


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every engine that is installed ran."""
    options = _options(arguments)
    cells = {name: run_engine(name, options) for name in options.engines}
    print(json.dumps(cells) if options.json else table(options.workloads, cells))
    return int(any(_is_failure(cell) for row in cells.values() for cell in row.values()))


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compare",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG_DIR")
    parser.add_argument("workloads", nargs="+", metavar="WORKLOAD")
    parser.add_argument("--engines", default=",".join(ENGINES), metavar="NAMES")
    parser.add_argument("--output-len", type=int, default=128, metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    for name in ENGINES:
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"an option of {name}'s engine",
        )
    parser.add_argument("--json", action="store_true", help="JSON in place of the table")
    options = parser.parse_args(arguments)
    options.engines = options.engines.split(",")
    unknown = set(options.engines) - ENGINES.keys()
    if unknown:
        parser.error(
            f"--engines: no engine is called {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}"
        )
    if not (options.config / "config.json").is_file():
        parser.error(f"{options.config}: there is no config.json in it")
    try:
        for name in options.workloads:
            comparable_workload(name, options.output_len)
        options.engine_options = {name: assigned_options(getattr(options, name)) for name in ENGINES}
    except ConfigError as error:
        parser.error(str(error))
    return options


def run_engine(name: str, options: argparse.Namespace) -> dict[str, Cell]:
    """Returns an engine's result for each workload, or the reason why there is none."""
    if importlib.util.find_spec(ENGINES[name].package) is None:
        return dict.fromkeys(options.workloads, NOT_INSTALLED)
    request = {
        "engine": name,
        "config": str(options.config),
        "workloads": options.workloads,
        "seed": options.seed,
        "output_len": options.output_len,
        "repeats": options.repeats,
        "options": options.engine_options[name],
    }
    found: dict[str, Cell] = dict.fromkeys(options.workloads, FAILED)
    try:
        for line in json_lines([sys.executable, "-m", "benchmarks.compare.child"], request):
            found[line["workload"]] = line
    except ProcessError as error:
        print(f"{name}: {error}", file=sys.stderr)
    return found


def table(workloads: Sequence[str], cells: dict[str, dict[str, Cell]]) -> str:
    """The table, with a line for each workload. The last column says how many times as fast jinfer is as the
    fastest other engine."""
    lines = [f"{'workload':<20}" + "".join(f"{name:>24}" for name in cells) + f"{'jinfer':>10}"]
    for workload in workloads:
        row = {name: found[workload] for name, found in cells.items()}
        shown = "".join(f"{_text(cell):>24}" for cell in row.values())
        lines.append(f"{workload:<20}{shown}{_ratio(row):>10}")
    for name, found in cells.items():
        errors = [cell["error"] for cell in found.values() if isinstance(cell, dict) and "error" in cell]
        lines += [f"{name}: {error}" for error in dict.fromkeys(errors)]
    return "\n".join(lines)


def _text(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return FAILED if "error" in cell else f"{cell['value']:,.4g} {cell['unit']}"


def _is_failure(cell: Cell) -> bool:
    return _text(cell) == FAILED


def _ratio(row: dict[str, Cell]) -> str:
    """The speed relative to another engine's: the ratio of the rates, or the inverse ratio of the times."""
    speeds = {
        name: cell["value"] if cell["unit"].endswith("/s") else 1 / cell["value"]
        for name, cell in row.items()
        if isinstance(cell, dict) and "value" in cell
    }
    others = [speed for name, speed in speeds.items() if name != "jinfer"]
    return f"{speeds['jinfer'] / max(others):.2f}x" if others and "jinfer" in speeds else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
