"""Reasoning and content of an answer, however its text is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jinfer.cli.chat_reasoning import Part, ReasoningSplitter

REASONING, CONTENT = Part.REASONING, Part.CONTENT


def split(pieces: list[str], first_part: Part | None) -> dict[Part, str]:
    """The joined texts of both parts, which must come one after the other."""
    splitter = ReasoningSplitter(first_part=first_part)
    deltas = [delta for piece in pieces for delta in splitter.add(piece)] + splitter.finish()
    parts = [part for part, _ in deltas]
    assert parts == sorted(parts, key=[REASONING, CONTENT].index)
    return {part: "".join(text for each, text in deltas if each is part) for part in Part}


@pytest.mark.parametrize(
    ("text", "first_part", "reasoning", "content"),
    [
        ("hello", None, "", "hello"),
        ("  \nhello", None, "", "  \nhello"),
        ("", None, "", ""),
        ("<think>\nwhy\n</think>\n\nso", None, "why\n", "so"),
        ("\n<think>why", None, "why", ""),
        ("why</think>so", REASONING, "why", "so"),
        ("a </thin", REASONING, "a </thin", ""),
        ("<think>\n\n</think>\n\nso", None, "", "so"),
        ("<thin", None, "", "<thin"),
        ("so <think>no</think>", None, "", "so <think>no</think>"),
        ("<think>a</think>b</think>c", None, "a", "b</think>c"),
        ("<think>a</think>b", CONTENT, "", "<think>a</think>b"),
        ("why</thinking></think>so", REASONING, "why</thinking>", "so"),
    ],
)
def test_the_parts_of_a_text(text, first_part, reasoning, content):
    expected = {REASONING: reasoning, CONTENT: content}
    assert split([text], first_part) == expected
    assert split(list(text), first_part) == expected


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "</thi", "nk>", "a", "\n", " "])),
    st.sampled_from([None, REASONING, CONTENT]),
)
def test_the_pieces_do_not_matter(pieces, first_part):
    text = "".join(pieces)
    assert split(pieces, first_part) == split([text], first_part) == split(list(text), first_part)


def test_text_is_held_back_only_while_it_may_be_a_mark():
    splitter = ReasoningSplitter(first_part=None)
    assert splitter.add("<thi") == []
    assert splitter.add("nk>why </") == [(REASONING, "why ")]
    assert splitter.add("p>") == [(REASONING, "</p>")]
    assert splitter.add("</think> so") == [(CONTENT, "so")]
    assert splitter.add("</") == [(CONTENT, "</")]
