"""Where results go as soon as they are there: a table, lines of JSON, the file of this machine."""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from jinfer.bench import record, results
from jinfer.bench.limits import Limits
from jinfer.bench.results import Result
from jinfer.errors import ConfigError, EngineError

RESULTS = Path("benchmarks", "results")
FILE_NAME = "engine.jsonl"
NOT_REPEATED = ("--results", "--json")  # of a command: where somebody's results went


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--json, --record and --results."""
    parser.add_argument("--json", metavar="FILE", help="a line of JSON for each result; - is stdout, without the table")
    parser.add_argument("--record", action="store_true", help=f"append to RESULTS/<device>/{FILE_NAME}")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help=f"default: {RESULTS}")


def check_output_options(options: argparse.Namespace) -> None:
    """Raises ConfigError before anything is measured that could not be kept."""
    if options.record and not options.results.is_dir():
        raise ConfigError(
            f"--record keeps results in {options.results}, which is no directory here; "
            "run in the repository or give --results DIR"
        )


class Output:
    """`command` measures the same again."""

    def __init__(self, options: argparse.Namespace, command: str, json_stream: TextIO | None) -> None:
        self._options, self._json_stream = options, json_stream
        self._circumstances = record.circumstances(command)

    def begin(self, machine: Limits) -> None:
        """What the machine reaches, and the head of the table."""
        self._text(results.limits_text(machine))
        self._text(results.header())

    def add(self, result: Result) -> None:
        """Raises EngineError for a result above its limit that was to be recorded."""
        self._text(results.result_text(result))
        line = {**result.line(), **self._circumstances}
        if self._json_stream is not None:
            print(json.dumps({**line, "details": result.details}), file=self._json_stream, flush=True)
        if self._options.record:
            try:
                record.append(record.results_file(self._options.results, FILE_NAME), [line])
            except ValueError as error:
                raise EngineError(str(error)) from error

    def _text(self, text: str) -> None:
        if self._options.json != "-":
            print(text, flush=True)


@contextlib.contextmanager
def open_output(options: argparse.Namespace, words: Sequence[str]) -> Iterator[Output]:
    """`words` are those of the command line, behind `jinfer`."""
    command = command_text(["jinfer", *words])
    if options.json in (None, "-"):
        yield Output(options, command, sys.stdout if options.json else None)
        return
    with open(options.json, "w", encoding="utf-8") as stream:
        yield Output(options, command, stream)


def command_text(words: Sequence[str]) -> str:
    """A command as it can be repeated on another machine: without the places of results, and no absolute path."""
    kept: list[str] = []
    is_value = False
    for word in words:
        name, equals, _ = word.partition("=")
        if not is_value and name not in NOT_REPEATED:
            kept.append(Path(word).name if word.startswith("/") else word)
        is_value = not is_value and name in NOT_REPEATED and not equals
    return shlex.join(kept)
