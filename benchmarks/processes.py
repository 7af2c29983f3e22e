"""Engines in processes of their own: each finds the device's memory free, and one that fails ends nothing
else."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.record import ENGINE_FILE, Line
from pallas_kernels.core.device import Device

JINFER = "import sys; from jinfer.cli import main; sys.exit(main())"


class ProcessError(Exception):
    """A process ended with an error; the message is the end of what it said."""


def json_lines(command: Sequence[str], request: Any = None) -> Iterator[Line]:
    """The lines of JSON that a process prints, as they come; `request` goes to its stdin. What it says on
    stderr is shown. Raises ProcessError where it ends with an error."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        yield from (json.loads(line) for line in process.stdout if line.startswith("{"))
    if process.returncode:
        raise ProcessError(f"it ended with status {process.returncode}; what it said is above")


def jinfer_bench(*words: str) -> Iterator[Line]:
    """Yields the results of `jinfer bench` as they come, in the form of the records but without their
    details."""
    return map(record.kept_line, json_lines([sys.executable, "-c", JINFER, "bench", *words, "--json", "-"]))


def append(results: Path, lines: Sequence[Line]) -> None:
    """Appends lines to the results of the device that they name. It does not open the device, which a child
    may hold."""
    for line in lines:
        file = results / Device(line["versions"]["device"], 0).file_name / ENGINE_FILE
        record.append(file, [{name: value for name, value in line.items() if name != "details"}])


def result_directory(results: Path, lines: Sequence[Line]) -> Path:
    """The directory of results of the device that the lines name."""
    return results / Device(lines[0]["versions"]["device"], 0).file_name
