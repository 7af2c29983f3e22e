"""The person's side of a conversation: lines that are typed or piped in, Ctrl-C, and remarks beside the
answers."""

import contextlib
import importlib
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from jinfer.errors import RequestError

PROMPT, CONTINUED_PROMPT = "> ", "... "
END_OF_PASTE = "/end"
MIN_WIDTH = 20  # of a terminal, in characters
DIM, NORMAL = "\x1b[2m", "\x1b[0m"


def remark(text: str) -> None:
    """Writes what is not the model's to stderr: dim, and in lines that fit, in a terminal."""
    if not sys.stderr.isatty():
        print(text, file=sys.stderr)
        return
    width = max(MIN_WIDTH, shutil.get_terminal_size().columns)
    fitting = "\n".join(textwrap.fill(line, width, replace_whitespace=False) for line in text.split("\n"))
    has_styles = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    print(f"{DIM}{fitting}{NORMAL}" if has_styles else fitting, file=sys.stderr)


class LineReader:
    """Messages from stdin: edited with readline in a terminal where Python has it, else as they come."""

    def __init__(self, commands: Sequence[str]) -> None:
        """`commands` are completed with Tab."""
        self.is_terminal = sys.stdin is not None and sys.stdin.isatty()
        self._has_editing = self.is_terminal and sys.stdout.isatty()
        self._readline = _readline(commands) if self._has_editing else None

    def read(self) -> str | None:
        """The next message; a backslash at the end of a line goes on with the next one. None at the end of
        stdin, or where Ctrl-C was pressed twice without a word in between. Raises RequestError for bytes that
        are no text."""
        is_second = False
        while True:
            try:
                return self._message()
            except EOFError:
                self._end_line()
                return None
            except KeyboardInterrupt:
                self._end_line()
                has_text = self._readline is not None and self._readline.get_line_buffer() != ""
                if is_second and not has_text:
                    return None
                is_second = not has_text
                if is_second:
                    remark("Ctrl-C again, or Ctrl-D, leaves")

    def read_paste(self) -> str | None:
        """All lines up to one that is /end, or to the end of stdin. None after Ctrl-C."""
        lines: list[str] = []
        try:
            while (line := self._line("")) != END_OF_PASTE:
                lines.append(line)
        except EOFError:
            pass
        except KeyboardInterrupt:
            self._end_line()
            return None
        return "\n".join(lines)

    def _message(self) -> str:
        line = self._line(PROMPT)
        while line.endswith("\\"):
            line = line[:-1] + "\n" + self._line(CONTINUED_PROMPT)
        return line

    def _line(self, prompt: str) -> str:
        if self._has_editing:
            try:
                return input(prompt)
            except UnicodeDecodeError as error:
                raise RequestError(f"the line is no text ({error}); type it again") from error
        if sys.stdin is None:
            raise EOFError
        if self.is_terminal:
            print(prompt, end="", file=sys.stderr)
        content = sys.stdin.buffer.readline()
        if not content:
            raise EOFError
        # What is no UTF-8 becomes surrogates, which a prompt refuses by name.
        return content.decode("utf-8", "surrogateescape").rstrip("\r\n")

    def _end_line(self) -> None:
        if self.is_terminal:
            print(file=sys.stderr)


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Gives a function that is true once Ctrl-C was pressed within the block. A second Ctrl-C raises
    KeyboardInterrupt, as the first one does elsewhere."""
    is_pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal is_pressed
        if is_pressed:
            signal.default_int_handler(number, frame)
        is_pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: is_pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def typing_is_hidden() -> Iterator[None]:
    """Keeps what is typed meanwhile from standing in the middle of an answer. The next line has it."""
    termios = _module("termios")
    if termios is None or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    local_flags = 3  # the index in the attributes
    hidden = [*before]
    hidden[local_flags] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, hidden)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _readline(commands: Sequence[str]) -> Any:
    """The standard library's line editing, with its history; None where this Python is without."""
    readline = _module("readline")
    if readline is not None:
        readline.set_completer_delims("")
        readline.set_completer(lambda text, state: _completion(commands, text, state))
        readline.parse_and_bind("tab: complete")
    return readline


def _completion(commands: Sequence[str], text: str, state: int) -> str | None:
    found = [name for name in commands if text and name.startswith(text)]
    return found[state] if state < len(found) else None


def _module(name: str) -> Any:
    """A module of the standard library that some systems lack."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
