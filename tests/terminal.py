"""A terminal for tests: a process in it, and what a person would see on its screen."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([a-zA-Z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# The first terminal that a new session opens is its own, whose Ctrl-C it gets.
IN_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
CTRL_C = "\x03"
SLEEPING = "S"
SECONDS = 120.0  # nothing takes so long that does not hang


class Screen:
    """The lines that a terminal shows, those that have scrolled away included; styles are left out."""

    def __init__(self, *, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._lines: list[list[str]] = [[]]
        self._row = self._column = 0

    @property
    def text(self) -> str:
        return "\n".join("".join(line).rstrip() for line in self._lines)

    def write(self, text: str) -> None:
        place = 0
        for found in SEQUENCE.finditer(text):
            self._put(text[place : found.start()])
            self._obey(found[1], found[2])
            place = found.end()
        self._put(text[place:])

    def _put(self, text: str) -> None:
        for character in text:
            if character == "\n":
                self._go_to(self._row + 1)
            elif character == "\r":
                self._column = 0
            elif character == "\b":
                self._column = max(0, self._column - 1)
            elif character != "\x07":
                self._print(character)

    def _print(self, character: str) -> None:
        if self._column == self._width:
            self._go_to(self._row + 1)
            self._column = 0
        line = self._lines[self._row]
        line += [" "] * (self._column + 1 - len(line))
        line[self._column] = character
        self._column += 1

    def _obey(self, argument: str, name: str | None) -> None:
        count = int(argument) if argument.isdigit() else 1
        if name == "A":  # not beyond the top of the screen
            self._row = max(0, len(self._lines) - self._height, self._row - count)
        elif name == "C":
            self._column = min(self._width - 1, self._column + count)
        elif name == "D":
            self._column = max(0, self._column - count)
        elif name == "K":
            start = 0 if argument == "2" else self._column
            del self._lines[self._row][start:]
        else:
            assert name in (None, "m", "h", "l"), f"{argument}{name} is not known to this screen"

    def _go_to(self, row: int) -> None:
        self._lines += [[] for _ in range(row + 1 - len(self._lines))]
        self._row = row


class TerminalProcess:
    """A process whose stdin, stdout and stderr are one terminal."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        width: int = 80,
        height: int = 24,
    ) -> None:
        self._descriptor, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", IN_TERMINAL, os.ttyname(end), *command],
            stdin=end,  # held until the shell has opened it
            cwd=folder,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(end)  # then reading ends with the process
        self.raw = ""
        self._read_up_to = 0
        self._screen_size = (width, height)

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._descriptor)[3] & termios.ECHO)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def press_ctrl_c(self) -> None:
        """Presses it once the process waits for a key. Python's readline looks for signals when one ends that
        wait: a signal between a prompt, or a key's echo, and the wait is seen with the next key alone."""
        deadline = time.monotonic() + SECONDS
        while self._state() != SLEEPING:
            assert time.monotonic() < deadline, "the process does not wait for a key"
            time.sleep(0.001)
        self.type(CTRL_C)

    def expect(self, text: str, *, timeout_s: float = SECONDS) -> str:
        """Waits for a text in what comes after that of the last call, and returns all up to its end."""
        deadline = time.monotonic() + timeout_s
        while (found := self.raw.find(text, self._read_up_to)) < 0:
            is_read = self._read(max(0.0, deadline - time.monotonic()))
            assert is_read, f"no {text!r} in {self.raw[self._read_up_to :]!r}"
        start, self._read_up_to = self._read_up_to, found + len(text)
        return self.raw[start : self._read_up_to]

    def wait(self) -> int:
        """The exit status."""
        while self._read(SECONDS):
            pass
        return self._process.wait(SECONDS)

    def screen(self) -> Screen:
        width, height = self._screen_size
        screen = Screen(width=width, height=height)
        screen.write(self.raw)
        return screen

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        os.close(self._descriptor)

    def _state(self) -> str:
        """The state of the main thread, behind the name of its program, which may hold anything."""
        status = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0]

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return False
        try:
            content = os.read(self._descriptor, 65536)
        except OSError:  # Linux says so of a terminal that nobody has open any more
            return False
        self.raw += content.decode("utf-8", "replace")
        return bool(content)
