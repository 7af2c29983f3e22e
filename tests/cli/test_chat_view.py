"""The choice of a view, and plain text in it."""

import io
import sys

import pytest

from jinfer import ConfigError
from jinfer.cli.chat_parts import Part
from jinfer.cli.chat_view import choose_view, plain_view


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_markdown_needs_a_terminal_and_rich(monkeypatch):
    assert choose_view(wants_markdown=True) is plain_view  # stdout is no terminal
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert choose_view(wants_markdown=False) is plain_view
    assert choose_view(wants_markdown=True) is not plain_view
    monkeypatch.setitem(sys.modules, "jinfer.cli.chat_markdown", None)
    with pytest.raises(ConfigError, match=r"needs the package rich .*pip install 'jinfer\[chat\]'.* --plain"):
        choose_view(wants_markdown=True)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], ""),
        ([(Part.CONTENT, "a"), (Part.CONTENT, "b")], "ab\n"),
        ([(Part.CONTENT, "a\n")], "a\n"),
        ([(Part.REASONING, "why"), (Part.CONTENT, "so")], "<think>\nwhy\n</think>\n\nso\n"),
        ([(Part.REASONING, "why")], "<think>\nwhy\n</think>\n"),
    ],
)
def test_plain_text_is_what_the_model_said(parts, expected, capsys):
    with plain_view() as show:
        for part, text in parts:
            show(part, text)
    assert capsys.readouterr().out == expected


def test_a_terminal_gets_no_commands_and_a_file_gets_all(monkeypatch, capsys):
    text = "a\x1b[2Jb\tc"
    with plain_view() as show:
        show(Part.CONTENT, text)
    assert capsys.readouterr().out == text + "\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with plain_view() as show:
        show(Part.CONTENT, text)
    assert terminal.getvalue() == "a\ufffd[2Jb\tc\n"
