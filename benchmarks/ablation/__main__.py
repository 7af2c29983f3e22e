"""The command line. See the package."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmarks.ablation as package
from benchmarks.ablation.variants import VARIANTS, Variant, find_variants
from benchmarks.processes import RESULTS, Line, ProcessError, append, json_lines
from jinfer.bench.opening import assigned_options
from jinfer.errors import ConfigError

CHILD = (sys.executable, "-m", "benchmarks.ablation.child")
COMPARED_WITH = {"jax-attention": "decode-step"}  # all others with the baseline


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every variant ran."""
    options, variants = _options(arguments)
    found: dict[str, dict[str, Line]] = {}
    machine = None
    print(f"{'variant':<26}{'workload':<12}{'value':>12} {'unit':<9}{'of limit':>9}{'worth':>8}  what it is")
    for variant in variants:
        rows = found[variant.name] = {}
        try:
            for line in json_lines(
                [sys.executable, "-m", "benchmarks.ablation.child"], _request(variant, options, machine)
            ):
                machine = line.pop("machine")
                workload = line["id"].split(f"-{variant.name}-", 1)[1]
                rows[workload] = line
                print(_row(variant, workload, found), flush=True)
                if options.record:
                    append(options.results, [line])
        except (ProcessError, ValueError) as error:
            rows["failed"] = {}
            print(f"{variant.name:<26}failed: {error}", flush=True)
    return int(any("failed" in rows for rows in found.values()))


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[Variant]]:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.ablation", description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("config", type=Path, metavar="CONFIG_DIR")
    names = ", ".join(variant.name for variant in VARIANTS)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=f"may be repeated: {names}")
    parser.add_argument("--workload", action="append", default=[], metavar="NAME", help="in place of a variant's own")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of every variant's engine")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        options.engine_options = assigned_options(options.set)
        return options, find_variants(options.only)
    except ConfigError as error:
        parser.error(str(error))


def _request(variant: Variant, options: argparse.Namespace, machine: Any) -> dict[str, Any]:
    words = ["python", "-m", "benchmarks.ablation", options.config.name, "--only", variant.name]
    words += [word for name in options.workload for word in ("--workload", name)]
    words += [word for text in options.set for word in ("--set", text)]
    return {
        "variant": variant.name, "config": str(options.config), "workloads": options.workload,
        "repeats": options.repeats, "options": options.engine_options, "machine": machine,
        "command": shlex.join([*words, "--repeats", str(options.repeats), "--record"]),
    }  # fmt: skip


def _row(variant: Variant, workload: str, found: dict[str, dict[str, Line]]) -> str:
    """`worth` is how many times as fast the baseline is."""
    line = found[variant.name][workload]
    base = found.get(COMPARED_WITH.get(variant.name, "baseline"), {}).get(workload)
    worth = ""
    if base is not None and base is not line:
        is_rate = line["unit"].endswith("/s")
        worth = f"{base['value'] / line['value'] if is_rate else line['value'] / base['value']:.3f}x"
    return (
        f"{variant.name:<26}{workload:<12}{line['value']:>12,.4g} {line['unit']:<9}{line['percent_of_limit']:>8}%"
        f"{worth:>8}  {variant.about}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
