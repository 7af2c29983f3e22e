"""The checking process (check_process.py), from this side."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

from jinfer.text.grammar.library import llguidance
from jinfer.text.grammar.limits import GrammarLimits

PROGRAM = Path(__file__).with_name("check_process.py")


class GrammarChecker:
    """Compiles grammars in a process of its own, to find out whether they can be compiled here. One thread
    uses it at a time. The process starts with the first grammar, and anew after one that ended it."""

    def __init__(self, added_tokens: Mapping[str, int], *, vocab_size: int, limits: GrammarLimits) -> None:
        """`added_tokens` are the tokenizer's, and `vocab_size` is the number of its ids."""
        self._limits = limits
        self._setup = {
            "tokens": {token_id: text for text, token_id in added_tokens.items()},
            "vocab_size": vocab_size,
            "limits": dict(limits.parser),
            "limit_s": limits.compile_cpu_s,
            "max_bytes": limits.compile_bytes,
            "stack_bytes": limits.stack_bytes,
        }
        self._process: subprocess.Popen[str] | None = None

    def error(self, grammar: str) -> str | None:
        """The reason why a grammar cannot be compiled, in llguidance's words or, if it ended the process, in
        our own. None if it can."""
        try:
            process = self._started()
            answer = _ask(process, grammar)
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer) or None
        assert self._process is not None
        status = self._process.wait()
        self._process = None
        return self._reason(status)

    def start(self) -> None:
        """Start the process, if it does not run."""
        self._started()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = _start()
            weakref.finalize(self, _end, self._process)
            _send(self._process, self._setup)
        return self._process

    def _reason(self, status: int) -> str:
        limits = self._limits
        if status in (-signal.SIGPROF, -signal.SIGALRM):
            return f"it takes more than {limits.compile_cpu_s:g} s of CPU to compile; make it simpler"
        if status in (-signal.SIGSEGV, -signal.SIGBUS):
            return "its rules or references nest too deeply; make it flatter"
        if status in (-signal.SIGABRT, -signal.SIGKILL):
            return f"it takes more than {limits.compile_bytes >> 20} MiB to compile; make it smaller"
        return f"the process that compiles it ended with the status {status}; make it simpler"


def _start() -> subprocess.Popen[str]:
    """The process. It finds llguidance where this one did, and nothing else in place of a standard module."""
    packages = str(Path(str(llguidance().__file__)).parents[1])
    return subprocess.Popen(
        [sys.executable, "-P", str(PROGRAM)],
        env={**os.environ, "PYTHONPATH": packages, "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what Rust says about its own end
        text=True,
        encoding="utf-8",
    )


def _ask(process: subprocess.Popen[str], grammar: str) -> str:
    """The line of the answer; empty if the process has ended."""
    _send(process, grammar)
    assert process.stdout is not None
    return process.stdout.readline()


def _send(process: subprocess.Popen[str], value: object) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(value) + "\n")
    process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(BrokenPipeError):  # it ended in the middle of a line to it
            stream.close()
    process.wait()
