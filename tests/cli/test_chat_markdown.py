"""Markdown that streams: what the screen shows at the end does not depend on how it came."""

import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jinfer.cli import chat_markdown
from jinfer.cli.chat_markdown import LiveBlocks
from jinfer.cli.chat_parts import Part
from tests.terminal import Screen

WIDTH, HEIGHT = 40, 10
TEXT = """# Rain

A **first** paragraph that is longer than one line of this terminal.
A second line.

1. one
2. two
   - nested

3. three

```python
def double(x):

    return 2 * x
```

| a | b |
|---|---|
| 1 | 2 |

> quoted <b>text</b>

---
- item 0
- item 1
- item 2
- item 3
- item 4
- item 5
- item 6
- item 7
- item 8
- item 9

last words"""
WORDS = ("Rain", "first", "nested", "double", "quoted <b>text</b>", "item 0", "item 9", "last words")


@pytest.fixture(autouse=True)
def a_clock_that_draws_every_piece(monkeypatch):
    monkeypatch.setattr(chat_markdown.time, "perf_counter", itertools.count().__next__)
    monkeypatch.setattr(chat_markdown, "MAX_SHARE_OF_TIME", 2.0)


def streamed(pieces: list[str], part: Part = Part.CONTENT) -> tuple[str, str]:
    """What the screen shows at the end, and all that was written to it."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=WIDTH, height=HEIGHT, color_system="standard")
    blocks = LiveBlocks(console)
    for piece in pieces:
        blocks.add(part, piece)
    blocks.finish()
    screen = Screen(width=WIDTH, height=HEIGHT)
    screen.write(written.getvalue().replace("\n", "\r\n"))
    return screen.text, written.getvalue()


def cut(size: int) -> list[str]:
    return [TEXT[place : place + size] for place in range(0, len(TEXT), size)]


def test_the_screen_has_every_block_once():
    shown, _ = streamed(cut(5))
    assert [shown.count(word) for word in WORDS] == [1] * len(WORDS)
    assert "**" not in shown
    assert "```" not in shown
    assert "terminal.\nA second line." in shown  # a line of the model's stays one
    assert max(map(len, shown.splitlines())) <= WIDTH


@given(st.lists(st.integers(1, len(TEXT) - 1), max_size=12))
@settings(max_examples=15, deadline=None)
def test_the_pieces_do_not_matter(places):
    ends = [0, *sorted(set(places)), len(TEXT)]
    pieces = [TEXT[start:end] for start, end in itertools.pairwise(ends)]
    assert streamed(pieces)[0] == streamed([TEXT])[0]


def test_what_is_complete_is_written_once():
    _, written = streamed(cut(5))
    after_the_list = written[written.index("quoted") :]
    assert "Rain" not in after_the_list
    assert "nested" not in after_the_list


def test_it_is_seen_while_it_grows():
    _, written = streamed(["first ", "second"])
    assert written.index("first") < written.index("first second")


def test_the_end_of_a_high_block_is_drawn_and_all_of_it_stays():
    items = [f"- item {index}\n" for index in range(30)]
    shown, written = streamed(items)
    assert [line.split()[-1] for line in shown.split("\n") if line] == [str(index) for index in range(30)]
    assert "\x1b[2K" in written


def test_reasoning_is_dim_and_no_markdown():
    shown, written = streamed(["why **not**\nnext line\n\nmore"], Part.REASONING)
    assert shown.rstrip("\n") == "why **not**\nnext line\n\nmore"
    assert "\x1b[2mwhy" in written


def test_a_model_does_not_command_the_terminal():
    _, written = streamed(["a\x1b]0;title\x07b\x1b[2Jc\x9b2J\rd"])
    assert "\x1b]0" not in written
    assert "\x1b[2J" not in written
    assert "\x07" not in written
    assert "\x9b" not in written


def test_nothing_said_is_nothing_shown():
    assert streamed([])[0].strip() == ""
