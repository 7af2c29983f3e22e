"""The command line. See the package."""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import benchmarks.serving as package
from benchmarks import record
from benchmarks.processes import ProcessError, json_lines
from benchmarks.record import RESULTS, Line
from benchmarks.server_process import ServerError, model_options, running_server
from benchmarks.serving.cases import CASES, OFFLINE, SERVED, STRUCTURED, Case, Figures, result, sized
from benchmarks.serving.served import measured
from jinfer.bench.arguments import positive
from jinfer.bench.json_lines import command_text
from jinfer.bench.opening import assigned_options
from jinfer.bench.serve.load import LoadError
from jinfer.errors import JinferError

CHILD = (sys.executable, "-m", "benchmarks.serving.offline")
FILE_NAME = "serving.jsonl"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every case was measured and recorded."""
    options = _options(arguments)
    sizes = {name: getattr(options, name) for name in ("num_requests", "prompt_len", "output_len", "repeats")}
    cases = [sized(CASES[name], **sizes) for name in options.cases or CASES]
    command = command_text(["python", "-m", "benchmarks.serving", *arguments], outputs=("--results",))
    try:
        circumstances, offline = _offline(options, command, [case for case in cases if case.id in OFFLINE])
        directory = circumstances.pop("directory")
        lines = Lines(options.results or RESULTS / directory / FILE_NAME, offline, circumstances)
        for case in cases:
            if case.id not in SERVED:
                lines.add(case, {})
        _measure_served(options, [case for case in cases if case.id in SERVED], lines)
    except (ProcessError, ServerError, JinferError) as error:
        print(error, file=sys.stderr)
        return 1
    return int(lines.has_failed)


class Lines:
    """Prints and records the result of each case, as soon as it is measured."""

    def __init__(self, file: Path, offline: Mapping[str, Figures], circumstances: Line) -> None:
        self._file, self._offline, self._circumstances = file, offline, circumstances
        self.has_failed = False

    def add(self, case: Case, served: Figures) -> None:
        """A case with the figures of the server. One above its limit is an error, and is not recorded."""
        offline = self._offline.get(case.id, {})
        details = {"sizes": dataclasses.asdict(case), "offline": offline, "served": served}
        line = {**result(case.id, offline, served), "commit": record.commit(), **self._circumstances}
        line["details"] = details
        print(json.dumps(line), flush=True)
        try:
            record.append(self._file, [line])
        except ValueError as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Tells an error that ends no other case."""
        print(error, file=sys.stderr)
        self.has_failed = True


def _offline(
    options: argparse.Namespace, command: str, cases: Sequence[Case]
) -> tuple[Line, dict[str, Figures]]:
    """The circumstances, and the figures of the engine alone by case. It has left the device after that."""
    request = {
        "model": options.model,
        "config": None if options.config is None else str(options.config),
        "options": assigned_options(options.set),
        "cases": [dataclasses.asdict(case) for case in cases],
        "command": command,
    }
    circumstances, *lines = json_lines(CHILD, request)
    return circumstances, {line.pop("case"): line for line in lines}


def _measure_served(options: argparse.Namespace, cases: Sequence[Case], lines: Lines) -> None:
    """Measures the cases on one server. Raises ServerError where it does not start."""
    if not cases:
        return
    given = {**assigned_options(options.set), **assigned_options(options.serve_option)}
    if any(case.id == STRUCTURED for case in cases):
        given = {"compile_split_steps": "at_start", **given}
    with running_server({**model_options(options.model, options.config), **given}) as server:
        for case in cases:
            try:
                lines.add(case, asyncio.run(measured(server.url, case)))
            except LoadError as error:
                lines.fail(error)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.serving",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="DIR", help="default: the small model that ships with jinfer")
    model.add_argument("--config", type=Path, metavar="DIR", help="a config.json, and random weights")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="default: results/<device>/serving.jsonl"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of both engines by its name; may be repeated",
    )
    parser.add_argument(
        "--serve-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of `jinfer serve` alone, as in tokenizer=DIR; may be repeated",
    )
    for name, about in (
        ("num-requests", "requests, streams or rows"),
        ("prompt-len", "tokens in"),
        ("output-len", "tokens out"),
        ("repeats", "runs of each, of which the median counts"),
    ):
        parser.add_argument(
            f"--{name}", type=positive(int), metavar="N", help=f"{about}; default: the case's"
        )
    options = parser.parse_args(arguments)
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"no case is called {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
