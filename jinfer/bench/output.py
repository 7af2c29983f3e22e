"""Where results go as soon as they are there: a table, lines of JSON, the file of this machine."""

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    if options.record and not os.access(options.results, os.W_OK):
        raise ConfigError(f"--record keeps results in {options.results}, which is read-only; give --results DIR")
    sys.stdout.write("")  # finds out whether it can be written


class Output:
    """`command` measures the same again."""

    def __init__(self, options: argparse.Namespace, command: str, json_file: io.RawIOBase | None) -> None:
        self._options, self._command, self._json_file = options, command, json_file

    def begin(self, machine: Limits) -> None:
        """What the machine reaches, and the head of the table."""
        self._circumstances = record.circumstances(self._command)
        self._text(results.limits_text(machine))
        self._text(results.header())

    def add(self, result: Result) -> None:
        """Raises EngineError for a result above its limit that was to be recorded, and ConfigError for a file that
        cannot be written. What can be written is, whatever cannot."""
        line = {**result.line(), **self._circumstances}
        try:
            self._text(results.result_text(result))
            self._json({**line, "details": result.details})
        finally:
            if self._options.record:
                self._record(line)

    def _json(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        if self._options.json == "-":
            sys.stdout.write(text)
        elif self._json_file is not None:
            with _file_errors(f"--json {self._options.json}"):
                left = text.encode()
                while left:
                    left = left[self._json_file.write(left) :]

    def _record(self, line: dict[str, Any]) -> None:
        file = record.results_file(self._options.results, FILE_NAME)
        try:
            with _file_errors(f"--record's {file}"):
                record.append(file, [line])
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise EngineError(str(error)) from error

    def _text(self, text: str) -> None:
        if self._options.json != "-":
            print(text, flush=True)


@contextlib.contextmanager
def open_output(options: argparse.Namespace, words: Sequence[str]) -> Iterator[Output]:
    """`words` are those of the command line, behind `jinfer`."""
    command = command_text(["jinfer", *words])
    with contextlib.ExitStack() as stack:
        file = None
        if options.json not in (None, "-"):
            with _file_errors(f"--json {options.json}"):
                file = stack.enter_context(open(options.json, "wb", buffering=0))
        yield Output(options, command, file)


@contextlib.contextmanager
def _file_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what} cannot be written: {error}; name a file that can be") from error


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
