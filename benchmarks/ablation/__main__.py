"""The command line. See the package."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmarks.ablation as package
from benchmarks.ablation.variants import VARIANTS, Variant, find_variants
from benchmarks.processes import ProcessError, append, json_lines
from benchmarks.record import RESULTS, Line
from jinfer.bench.opening import assigned_options
from jinfer.errors import ConfigError

CHILD = (sys.executable, "-m", "benchmarks.ablation.child")
STEP_BASELINE = "decode-step"  # engines are compared with "baseline"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every variant ran."""
    options, variants = _options(arguments)
    table = Table(options)
    for group in _groups(variants):
        try:
            for line in json_lines(CHILD, _request(group, options, table.machine)):
                table.add(line)
        except (ProcessError, ValueError) as error:
            for variant in group:
                table.fail(variant.name, error)
    return int(table.has_failed)


class Table:
    """Prints a row for each result, and keeps it if that is wanted."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._found: dict[str, dict[str, Line]] = {}
        self._known = {variant.name: variant for variant in VARIANTS}
        self.machine: Any = None
        self.has_failed = False
        print(
            f"{'variant':<26}{'workload':<12}{'value':>12} {'unit':<9}{'of limit':>9}{'worth':>8}  what it is"
        )

    def add(self, line: Line) -> None:
        """Takes a line of a child: a result, or the error of one variant among several."""
        self.machine, name = line.pop("machine"), line.pop("variant")
        if "error" in line:
            self.fail(name, line["error"])
            return
        variant, workload = self._known[name], line["id"].split(f"-{name}-", 1)[1]
        self._found.setdefault(name, {})[workload] = line
        base = self._found.get("baseline" if variant.step is None else STEP_BASELINE, {}).get(workload)
        print(_row(variant, workload, line, base), flush=True)
        if self._options.record:
            append(self._options.results, [line])

    def fail(self, name: str, error: Any) -> None:
        """Reports a variant that gave no result, or not all of them."""
        self.has_failed = True
        print(f"{name:<26}failed: {error}", flush=True)


def _groups(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Groups the variants by process: each engine has its own, and all decode steps share one."""
    steps = [variant for variant in variants if variant.step]
    return [*([variant] for variant in variants if not variant.step), *([steps] if steps else [])]


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Variant]]:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ablation",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG_DIR")
    names = ", ".join(variant.name for variant in VARIANTS)
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help=f"may be repeated: {names}"
    )
    parser.add_argument(
        "--workload", action="append", default=[], metavar="NAME", help="in place of a variant's own"
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="of every variant's engine"
    )
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        options.engine_options = assigned_options(options.set)
        return options, find_variants(options.only)
    except ConfigError as error:
        parser.error(str(error))


def _request(group: Sequence[Variant], options: argparse.Namespace, machine: Any) -> dict[str, Any]:
    names = [variant.name for variant in group]
    words = ["python", "-m", "benchmarks.ablation", options.config.name]
    words += [word for name in names for word in ("--only", name)]
    words += [word for name in options.workload for word in ("--workload", name)]
    words += [word for text in options.set for word in ("--set", text)]
    return {
        "variants": names,
        "config": str(options.config),
        "workloads": options.workload,
        "repeats": options.repeats,
        "options": options.engine_options,
        "machine": machine,
        "command": shlex.join([*words, "--repeats", str(options.repeats), "--record"]),
    }


def _row(variant: Variant, workload: str, line: Line, base: Line | None) -> str:
    """`worth` is how many times as fast the baseline is."""
    worth = ""
    if base is not None and base is not line:
        is_rate = line["unit"].endswith("/s")
        worth = f"{base['value'] / line['value'] if is_rate else line['value'] / base['value']:.3f}x"
    return (
        f"{variant.name:<26}{workload:<12}{line['value']:>12,.4g} "
        f"{line['unit']:<9}{line['percent_of_limit']:>8}%"
        f"{worth:>8}  {variant.about}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
