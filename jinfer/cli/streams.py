"""stdout and stderr while a command runs: an error of stdout ends the command with a message, and an error of
stderr is ignored."""

import codecs
import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from jinfer.errors import JinferError

STANDARD_DESCRIPTORS = (0, 1, 2)
LONGEST_STALL_S = 10.0  # of a reader whose pipe does not block, and that takes nothing


class WriteError(JinferError):
    """The output of a command cannot be written; the message has what the system says of it."""


class ReaderGoneError(Exception):
    """The reader of stdout has closed it, as in `jinfer generate | head -c 100`: the command ends, and this
    is no error."""


@contextlib.contextmanager
def command_streams() -> Iterator[None]:
    """`sys.stdout` is an Output and `sys.stderr` a Messages within the block, for print, argparse, logging
    and bars."""
    _occupy_closed_descriptors()
    output, messages = cast(TextIO, Output(sys.stdout)), cast(TextIO, Messages(sys.stderr))
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(messages):
        yield


class Writer:
    """A text stream that writes at once, around another.

    Characters that the encoding lacks become escapes, such as \\xe9 or \\U0001f600. Bytes go past the buffers
    of the stream to its file: what failed once is not tried again, with a traceback, when Python ends.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """None stands for a stream that is closed, as in `jinfer generate >&-`."""
        self._stream = stream
        self._raw = _raw_file(stream)
        self._errors = getattr(stream, "errors", None) or "strict"
        self._encoder = codecs.getincrementalencoder(self.encoding)(self._errors)

    @property
    def encoding(self) -> str:
        """UTF-8 where the stream has none, and takes any text."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes all of it. '' writes nothing, and finds out whether the file can be written. Raises OSError,
        and ValueError for a closed stream."""
        if self._stream is None:
            raise ValueError("it is closed")
        fitting = self._fitting(text)
        if self._raw is None:
            self._stream.write(fitting)
        self._stream.flush()  # with a raw file: text that was written before this stream was wrapped
        if self._raw is not None:
            _write_all(self._raw, self._encoder.encode(fitting))
        return len(text)

    def flush(self) -> None:
        """Nothing is left to do."""

    def isatty(self) -> bool:
        """True if a person reads it as it comes."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # it is closed
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fitting(self, text: str) -> str:
        """The text with escapes for what cannot be encoded."""
        try:
            text.encode(self.encoding, self._errors)
        except UnicodeEncodeError:
            return "".join(map(self._fitting_character, text))
        return text

    def _fitting_character(self, character: str) -> str:
        try:
            character.encode(self.encoding, self._errors)
        except UnicodeEncodeError:
            return character.encode("ascii", "backslashreplace").decode("ascii")
        return character


class Output(Writer):
    """stdout, where results go. What cannot be written ends the command."""

    def write(self, text: str) -> int:
        """Raises ReaderGoneError for a pipe that is closed at its other end, and WriteError for all else."""
        try:
            return super().write(text)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ReaderGoneError from error
        except (OSError, ValueError) as error:
            raise WriteError(
                f"stdout cannot be written: {error}; send it to a file with room or to a pipe that is read"
            ) from error


class Messages(Writer):
    """stderr, which tells how the work goes. The work goes on without it, in silence."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._is_lost = stream is None

    def write(self, text: str) -> int:
        """Raises nothing. After the first error nothing is tried any more."""
        if not self._is_lost:
            try:
                super().write(text)
            except (OSError, ValueError):
                self._is_lost = True
        return len(text)


def _raw_file(stream: TextIO | None) -> io.RawIOBase | None:
    """The file below the buffers of a stream; None for streams in memory and those that are made
    otherwise."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # `python -u` has no buffer between them
    return raw if isinstance(raw, io.RawIOBase) else None


def _write_all(raw: io.RawIOBase, content: bytes) -> None:
    left = memoryview(content)
    while True:
        written = raw.write(left)
        if written is None:
            _wait_for_reader(raw)
            continue
        left = left[written:]
        if not left:
            return


def _wait_for_reader(raw: io.RawIOBase) -> None:
    """Waits for a pipe that is full and does not block. Raises BlockingIOError where it stays full."""
    writable = select.poll()
    writable.register(raw.fileno(), select.POLLOUT)
    if not writable.poll(LONGEST_STALL_S * 1e3):
        raise BlockingIOError(f"its reader has taken nothing for {LONGEST_STALL_S:.0f} s")


def _occupy_closed_descriptors() -> None:
    """Opens /dev/null in place of what is closed of stdin, stdout and stderr. A file that is opened later
    would get the number, and with it what XLA and CUDA print there."""
    for descriptor in STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
