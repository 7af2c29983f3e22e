"""Markdown that streams into a terminal, with the package rich.

A block (a paragraph, a list, a table, code) that is complete is printed, and never touched again. The last
one, which may still change, is drawn anew as it grows. Of a block higher than the terminal the end is drawn;
all of it is printed once it is complete.
"""

import contextlib
import itertools
import re
import time
from collections.abc import Iterator

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

from jinfer.cli.chat_parts import Part
from jinfer.cli.chat_session import Show
from jinfer.cli.chat_view import harmless

MIN_REFRESH_S = 0.06
MAX_SHARE_OF_TIME = 0.1  # for drawing; the engine needs the rest
PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")

Lines = list[list[Segment]]


@contextlib.contextmanager
def markdown_view() -> Iterator[Show]:
    """Shows content as Markdown, and reasoning as dim text, in the terminal that is stdout."""
    blocks = LiveBlocks(Console(highlight=False))
    try:
        yield blocks.add
    finally:
        blocks.finish()


class LiveBlocks:
    """The blocks of one answer. As a renderable of rich it is the last one, which may still change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            self,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._part = Part.CONTENT
        self._text = ""  # that is not printed yet
        self._has_printed = False
        self._next_refresh_s = 0.0
        self._live.start()

    def add(self, part: Part, text: str) -> None:
        """More of the answer."""
        if part is not self._part:
            self._print_all()
            self._part = part
        self._text += harmless(text)
        if "\n" in text:
            self._print_complete()
        self._refresh()

    def finish(self) -> None:
        """Prints all that is left."""
        try:
            self._print_all()
        finally:
            self._live.stop()

    def _print_all(self) -> None:
        blocks, self._text = _blocks(self._part, self._text), ""
        self._print(blocks)

    def _print_complete(self) -> None:
        """Prints all blocks but the last one; what follows it may become a part of it. A line that has no end
        yet may become anything."""
        end = self._text.rindex("\n") + 1
        *complete, last = _blocks(self._part, self._text[:end])
        self._text = last + self._text[end:]
        self._print(complete)

    def _print(self, blocks: list[str]) -> None:
        """Prints blocks for good, above what is drawn."""
        lines = self._lines(blocks)
        if lines:
            self._has_printed = True
            self._console.print(_segments(lines), end="")

    def _refresh(self) -> None:
        """Draws the last block, unless it was drawn a moment ago."""
        started = time.perf_counter()
        if started < self._next_refresh_s:
            return
        self._live.refresh()
        took_s = time.perf_counter() - started
        self._next_refresh_s = started + max(MIN_REFRESH_S, took_s / MAX_SHARE_OF_TIME)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The end of the last block, of as many lines as the terminal has room for."""
        max_lines = max(1, self._console.height - 2)
        yield _segments(self._lines(_blocks(self._part, self._text))[-max_lines:])

    def _lines(self, blocks: list[str]) -> Lines:
        """The rendered lines, an empty one above each block but the first of the answer."""
        lines: Lines = []
        for block in blocks:
            if block.strip():
                lines += [[]] if lines or self._has_printed else []
                lines += self._lines_of_block(block)
        return lines

    def _lines_of_block(self, block: str) -> Lines:
        options = self._console.options.update(height=None)
        lines = self._console.render_lines(_rendered(self._part, block), options, pad=False)
        lines = [_without_padding(line) for line in lines]
        while lines and not lines[0]:
            lines.pop(0)
        while lines and not lines[-1]:
            lines.pop()
        return lines


def _rendered(part: Part, text: str) -> RenderableType:
    if part is Part.REASONING:
        return Text(text.strip("\n"), style="dim")
    markdown = Markdown("")
    markdown.parsed = PARSER.parse(text)
    for token in markdown.parsed:
        for child in token.children or ():
            if child.type == "softbreak":  # lines that the model made stay lines
                child.type = "hardbreak"
    return markdown


def _blocks(part: Part, text: str) -> list[str]:
    """The text in pieces, at least one: paragraphs of reasoning, or the outermost blocks of Markdown."""
    if part is Part.REASONING:
        *paragraphs, last = text.split("\n\n")
        return [*(f"{each}\n\n" for each in paragraphs), last]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # as the parser counts them
    starts = [token.map[0] for token in PARSER.parse(text) if token.level == 0 and token.map]
    places = [0, *starts[1:], len(lines)]
    return ["".join(lines[start:end]) for start, end in itertools.pairwise(places)]


def _without_padding(line: list[Segment]) -> list[Segment]:
    """The line up to its last character: a terminal that becomes narrower would break spaces into lines of
    their own. Spaces with a background stay, as those of code have."""
    for end in range(len(line), 0, -1):
        text, style, control = line[end - 1]
        if style is not None and style.bgcolor is not None:
            return line[:end]
        if text.strip():
            return [*line[: end - 1], Segment(text.rstrip(), style, control)]
    return []


def _segments(lines: Lines) -> Segments:
    return Segments([segment for line in lines for segment in (*line, Segment.line())])
