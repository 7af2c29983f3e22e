"""The look of an answer while it streams: text as it is, or Markdown in a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from jinfer.cli.chat_parts import Part
from jinfer.cli.chat_session import Show
from jinfer.errors import ConfigError

OPENING, CLOSING = "<think>", "</think>"  # around the reasoning in plain text, whatever the model's are
CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""Characters that could move the cursor of a terminal, or do worse; a model may say any."""

View = Callable[[], contextlib.AbstractContextManager[Show]]
"""Opens the place of one answer."""


def choose_view(*, wants_markdown: bool) -> View:
    """Markdown in a terminal, plain text elsewhere. Raises ConfigError where Markdown needs `rich` and it is
    not installed."""
    if not (wants_markdown and sys.stdout.isatty()):
        return plain_view
    try:
        from jinfer.cli.chat_markdown import markdown_view
    except ImportError as error:
        raise ConfigError(
            f"Markdown in a terminal needs the package rich ({error}); install it with "
            "`pip install 'jinfer[chat]'`, or give --plain for the text as it is"
        ) from error
    return markdown_view


@contextlib.contextmanager
def plain_view() -> Iterator[Show]:
    """Writes text as it comes, the reasoning between its marks, and a line feed at the end."""
    last_part, last_text = None, ""

    def show(part: Part, text: str) -> None:
        nonlocal last_part, last_text
        mark = "" if part is last_part else _mark(last_part, part)
        sys.stdout.write(mark + (harmless(text) if sys.stdout.isatty() else text))
        last_part, last_text = part, text

    try:
        yield show
    finally:
        ending = f"\n{CLOSING}" if last_part is Part.REASONING else ""
        if last_text and (ending or not last_text.endswith("\n")):
            sys.stdout.write(ending + "\n")


def harmless(text: str) -> str:
    """The text without characters that a terminal obeys."""
    return text.replace("\r", "").translate(CONTROLS)


def _mark(before: Part | None, after: Part) -> str:
    if after is Part.REASONING:
        return f"{OPENING}\n"
    return f"\n{CLOSING}\n\n" if before is Part.REASONING else ""
