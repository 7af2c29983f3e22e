"""The output of results as soon as they are there: a table, and lines of JSON with their circumstances."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from jinfer.bench import results
from jinfer.bench.arguments import add_json
from jinfer.bench.circumstances import circumstances
from jinfer.bench.json_lines import JsonLines, command_text, open_json_lines
from jinfer.bench.limits import MachineLimits
from jinfer.bench.results import Result


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """--json."""
    add_json(parser, each="result", without="table")


def check_output() -> None:
    """Raises WriteError before anything is measured that could not be printed."""
    sys.stdout.write("")


class ResultsOutput:
    """`command` measures the same again."""

    def __init__(self, command: str, json_lines: JsonLines) -> None:
        self._command, self._json_lines = command, json_lines

    def begin(self, machine: MachineLimits) -> None:
        """Prints the limits of the machine, and the head of the table."""
        self._circumstances = circumstances(self._command)
        self._text(results.limits_text(machine))
        self._text(results.header())

    def add(self, result: Result) -> None:
        """Prints a result, and writes it to --json. Raises ConfigError for a file that cannot be written."""
        self._text(results.result_text(result))
        self._json_lines.write({**result.line(), **self._circumstances, "details": result.details})

    def _text(self, text: str) -> None:
        if not self._json_lines.is_on_stdout:
            print(text, flush=True)


@contextlib.contextmanager
def open_output(options: argparse.Namespace, words: Sequence[str]) -> Iterator[ResultsOutput]:
    """`words` are those of the command line after `jinfer`."""
    command = command_text(["jinfer", *words])
    with open_json_lines("--json", options.json) as json_lines:
        yield ResultsOutput(command, json_lines)
