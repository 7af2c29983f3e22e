"""The command line. See the package."""

import argparse
import json
import os
import shlex
import sys
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory beside JAX

import benchmarks.quantization as package
from benchmarks.quantization.measure import line_of
from benchmarks.quantization.rows import ROWS, SMOKE_SHAPES
from benchmarks.record import RESULTS, append, circumstances, results_file

FILE_NAME = "quantization.jsonl"


def main(arguments: list[str]) -> int:
    """The exit status: 0 where every row was measured."""
    options = _options(arguments)
    command = ["python", "-m", package.__name__, *options.ids, *(["--record"] if options.record else [])]
    shared = circumstances(shlex.join(command))
    wanted = [row for row in ROWS if not options.ids or row.id in options.ids]
    num_failed = 0
    for row in wanted:
        if options.smoke:
            row = row.on(SMOKE_SHAPES)
        line = line_of(row, smoke=options.smoke)
        if line is None:
            num_failed += 1
            continue
        print(json.dumps({**line, **shared}), flush=True)
        if options.record:
            append(results_file(options.results, FILE_NAME), [{**line, **shared}])
    return 1 if num_failed else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        f"python -m {package.__name__}",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--record", action="store_true", help="append to the results of this device")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, to see that everything runs")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    options = parser.parse_args(arguments)
    known = [row.id for row in ROWS]
    unknown = sorted(set(options.ids) - set(known))
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}; there are {', '.join(known)}")
    if options.smoke and options.record and options.results == RESULTS:
        parser.error("the figures of a smoke test mean nothing: give --results a directory of their own")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
