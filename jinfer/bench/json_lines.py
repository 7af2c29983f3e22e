"""Lines of JSON in a file or on stdout, and the command that they say repeats them."""

import contextlib
import io
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinfer.errors import ConfigError


class JsonLines:
    """`target` is what an option says: the name of a file, - for stdout, or None for nothing."""

    def __init__(self, option: str, target: str | None, file: io.RawIOBase | None) -> None:
        self._option, self._target, self._file = option, target, file

    @property
    def is_on_stdout(self) -> bool:
        return self._target == "-"

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes a line at once. Raises ConfigError for a file that cannot be written."""
        text = json.dumps(line) + "\n"
        if self.is_on_stdout:
            sys.stdout.write(text)
        elif self._file is not None:
            with file_errors(f"{self._option} {self._target}"):
                left = text.encode()
                while left:
                    left = left[self._file.write(left) :]


@contextlib.contextmanager
def open_json_lines(option: str, target: str | None) -> Iterator[JsonLines]:
    """Opens the file that `option` names, and empties it. Raises ConfigError where that fails."""
    with contextlib.ExitStack() as stack:
        file = None
        if target not in (None, "-"):
            with file_errors(f"{option} {target}"):
                file = stack.enter_context(open(str(target), "wb", buffering=0))
        yield JsonLines(option, target, file)


@contextlib.contextmanager
def file_errors(what: str) -> Iterator[None]:
    """An OSError becomes a ConfigError that names the option and its file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what} cannot be written: {error}; name a file that can be") from error


def command_text(words: Sequence[str], outputs: Sequence[str] = ("--json",)) -> str:
    """A command as it can be repeated on another machine: no absolute path, and none of the options in
    `outputs`, which say where results went."""
    kept: list[str] = []
    is_value = False
    for word in words:
        name, equals, _ = word.partition("=")
        if not is_value and name not in outputs:
            kept.append(Path(word).name if word.startswith("/") else word)
        is_value = not is_value and name in outputs and not equals
    return shlex.join(kept)
