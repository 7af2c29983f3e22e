"""The command line: measure, tune or chart. See the package."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import benchmarks.kernels as package
from benchmarks.kernels import chart, record, table, tune
from benchmarks.kernels.case import Case, Target
from benchmarks.kernels.cases import all_cases, selected
from benchmarks.kernels.cases.decode import COMPARED_WITH_JAX
from benchmarks.kernels.run import Measured, Row, measure
from benchmarks.record import append, circumstances, results_file
from jinfer.bench.limits import measure_limits

VERSUS_JAX_TARGET = Target(1.7, "ratio")


def main(arguments: list[str]) -> int:
    """The exit status: 0 where every case ran."""
    commands = {"tune": tune.main, "chart": chart.main}
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    options = _options(arguments)
    cases = _cases(options)
    limits = measure_limits(smoke=options.smoke)
    print(json.dumps({"limits": limits.rounded()}) if options.json else table.limits_text(limits), flush=True)
    if not options.json:
        print(table.header(), flush=True)
    rows = []
    for row in measure(cases, limits, smoke=options.smoke, progress=_progress):
        rows.append(row)
        print(_json_text(row) if options.json else table.row_text(row), flush=True)
    compared = tuple(case.id for case in cases if case.jax is not None and case.id in COMPARED_WITH_JAX)
    versus_jax = record.versus_jax_line(rows, compared if options.smoke else COMPARED_WITH_JAX, limits)
    if versus_jax is not None:
        print(
            json.dumps(versus_jax) if options.json else table.versus_jax_text(versus_jax, VERSUS_JAX_TARGET)
        )
    ratios = [{**line, **_circumstances(options)} for line in record.ratio_lines(rows, limits)]
    for line in ratios:
        print(json.dumps(line) if options.json else table.ratio_text(line), flush=True)
    if options.record:
        _record(rows, versus_jax, options)
        append(results_file(options.results, record.RATIOS_FILE_NAME), ratios)
    return 1 if any(isinstance(row.measured, Exception) for row in rows) else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernels",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ops", nargs="*", metavar="OP")
    parser.add_argument(
        "--case", action="append", default=[], metavar="ID", help="this case alone; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON for each row")
    parser.add_argument("--record", action="store_true", help="append to the results of this device")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--results", type=Path, default=record.RESULTS, metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    if options.smoke and options.record and options.results == record.RESULTS:
        parser.error(
            "the figures of a smoke test mean nothing: give --results a directory of their own, or no "
            "--record"
        )
    return options


def _cases(options: argparse.Namespace) -> list[Case]:
    cases = all_cases(smoke=options.smoke)
    stands_for = {record.VERSUS_JAX: COMPARED_WITH_JAX}
    stands_for |= {case.ratio.id: (case.ratio.beside, case.id) for case in cases if case.ratio is not None}
    ids = [name for given in options.case for name in stands_for.get(given, (given,))]
    try:
        return selected(cases, options.ops, ids)
    except ValueError as error:
        raise SystemExit(str(error)) from None


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _json_text(row: Row) -> str:
    line = record.measured_line(row) if row.figure is not None else {}
    return json.dumps({**line, **record.further_facts(row)})


def _circumstances(options: argparse.Namespace) -> dict[str, Any]:
    """The commit, the machine, and the command that measures the same again."""
    flags = [
        *(["--smoke"] if options.smoke else []),
        *(f"--case={name}" for name in options.case),
        "--record",
    ]
    return circumstances(shlex.join(["python", "-m", package.__name__, *options.ops, *flags]))


def _record(rows: list[Row], versus_jax: dict[str, Any] | None, options: argparse.Namespace) -> None:
    """Appends the measured rows to the files of results of the device."""
    shared = _circumstances(options)
    of_file: dict[str, list[dict[str, Any]]] = {record.FILE_NAME: []}
    for row in rows:
        if isinstance(row.measured, Measured):
            of_file.setdefault(row.case.file_name, []).append(record.measured_line(row))
    of_file[record.FILE_NAME] += [] if versus_jax is None else [versus_jax]
    for name, lines in of_file.items():
        append(results_file(options.results, name), [{**line, **shared} for line in lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
