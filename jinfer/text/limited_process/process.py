"""A limited process, as its parent sees it."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from jinfer.child_environment import child_environment
from jinfer.text.limited_process.limits import ProcessLimits


class ProcessEndedError(Exception):
    """The process ended over a question. `status` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the process ended with status {status}")
        self.status = status


class LimitedProcess:
    """Asks a module that runs `answer_lines`, one question at a time. The process starts with the first
    question, and anew after one that ended it."""

    def __init__(self, module: str, setup: Any, limits: ProcessLimits, *, needs: ModuleType | None) -> None:
        """`module` is run by its name, and `setup` is JSON for it. `needs` is a package that it imports, and
        finds where this process did."""
        self._module = module
        self._beginning = {"limits": dataclasses.asdict(limits), "setup": setup}
        self._needs = needs
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], None] = _nothing

    def ask(self, question: Any) -> Any:
        """The answer; both are JSON. Raises ProcessEndedError where there is none."""
        process = self.start()
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            answer = _ask(process, question)
        if answer.endswith("\n"):
            return json.loads(answer)
        status = process.wait()
        self.close()
        raise ProcessEndedError(status)

    def start(self) -> subprocess.Popen[str]:
        """Starts the process, if it does not run. It imports what it needs while the caller does other
        things."""
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it was killed between two questions
        if self._process is None:
            self._process = _start(self._module, self._needs)
            self._end = weakref.finalize(self, _end, self._process)
            with contextlib.suppress(BrokenPipeError):
                _send(self._process, self._beginning)
        return self._process

    def kill(self) -> None:
        """Ends the question that another thread has asked."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process, which no thread uses."""
        self._end()
        self._process, self._end = None, _nothing


def _start(module: str, needs: ModuleType | None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],  # -P: nothing is imported from whatever folder this is
        env=child_environment(needs) | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what native code says about its own end
        text=True,
        encoding="utf-8",
    )


def _ask(process: subprocess.Popen[str], question: Any) -> str:
    """The line of the answer, without its end if the process ended meanwhile."""
    _send(process, question)
    assert process.stdout is not None
    return process.stdout.readline()


def _send(process: subprocess.Popen[str], value: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(value) + "\n")
    process.stdin.flush()


def _nothing() -> None:
    pass


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):  # it ended in the middle of a line to it
            stream.close()
    process.wait()
