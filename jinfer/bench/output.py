"""The output of results as soon as they are there: a table, and lines of JSON with their circumstances."""

import argparse
import contextlib
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinfer.bench import results
from jinfer.bench.circumstances import circumstances
from jinfer.bench.limits import MachineLimits
from jinfer.bench.results import Result
from jinfer.errors import ConfigError

NOT_REPEATED = ("--json",)  # of a command: where somebody's results went


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument(
        "--json", metavar="FILE", help="a line of JSON for each result; - is stdout, without the table"
    )


def check_output() -> None:
    """Raises WriteError before anything is measured that could not be printed."""
    sys.stdout.write("")


class ResultsOutput:
    """`command` measures the same again."""

    def __init__(self, options: argparse.Namespace, command: str, json_file: io.RawIOBase | None) -> None:
        self._options, self._command, self._json_file = options, command, json_file

    def begin(self, machine: MachineLimits) -> None:
        """Prints the limits of the machine, and the head of the table."""
        self._circumstances = circumstances(self._command)
        self._text(results.limits_text(machine))
        self._text(results.header())

    def add(self, result: Result) -> None:
        """Prints a result, and writes it to --json. Raises ConfigError for a file that cannot be written."""
        self._text(results.result_text(result))
        self._json({**result.line(), **self._circumstances, "details": result.details})

    def _json(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line) + "\n"
        if self._options.json == "-":
            sys.stdout.write(text)
        elif self._json_file is not None:
            with _file_errors(f"--json {self._options.json}"):
                left = text.encode()
                while left:
                    left = left[self._json_file.write(left) :]

    def _text(self, text: str) -> None:
        if self._options.json != "-":
            print(text, flush=True)


@contextlib.contextmanager
def open_output(options: argparse.Namespace, words: Sequence[str]) -> Iterator[ResultsOutput]:
    """`words` are those of the command line, behind `jinfer`."""
    command = command_text(["jinfer", *words])
    with contextlib.ExitStack() as stack:
        file = None
        if options.json not in (None, "-"):
            with _file_errors(f"--json {options.json}"):
                file = stack.enter_context(open(options.json, "wb", buffering=0))
        yield ResultsOutput(options, command, file)


@contextlib.contextmanager
def _file_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what} cannot be written: {error}; name a file that can be") from error


def command_text(words: Sequence[str]) -> str:
    """A command as it can be repeated on another machine: without the places of results, and no absolute
    path."""
    kept: list[str] = []
    is_value = False
    for word in words:
        name, equals, _ = word.partition("=")
        if not is_value and name not in NOT_REPEATED:
            kept.append(Path(word).name if word.startswith("/") else word)
        is_value = not is_value and name in NOT_REPEATED and not equals
    return shlex.join(kept)
