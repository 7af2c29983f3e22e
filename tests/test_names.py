"""Names and sentences of the two packages: one class of a name, and docstrings that begin with their
subject."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(REPOSITORY / "jinfer").rglob("*.py"), *(REPOSITORY / "pallas_kernels").rglob("*.py")])

# A docstring that begins so cannot be read without the name above it.
NO_SUBJECT = {
    *("As", "By", "For", "From", "How", "In", "Nobody", "Of", "On", "So", "That", "This", "Those", "Through"),
    *("To", "Under", "What", "Where", "Whether", "Which", "Who", "Whoever", "Why", "With", "Without"),
}
BOUND = re.compile(r"\b_?(?:most|fewest|MOST|FEWEST)_\w+")


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the text of each string that stands by itself: of modules, classes, functions and
    fields."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, node.value.value


def first_word(text: str) -> str:
    return text.split()[0].rstrip(",:;.")


def test_the_sources_are_found():
    assert len(SOURCES) > 150
    assert sum(len(list(docstrings(tree_of(path)))) for path in SOURCES) > 500


def test_no_two_classes_have_one_name():
    files = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                files[node.name].append(relative(path))
    assert {name: found for name, found in files.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_docstrings_begin_with_their_subject(path):
    found = [(line, text) for line, text in docstrings(tree_of(path)) if first_word(text) in NO_SUBJECT]
    assert found == []


def test_bounds_are_max_and_min():
    """The glossary's rule: `num_` counts, `max_` bounds."""
    for path in SOURCES:
        assert BOUND.findall(path.read_text(encoding="utf-8")) == [], path


def test_ruff_formats_every_line():
    by_hand = [relative(path) for path in SOURCES if "# fmt: " + "skip" in path.read_text(encoding="utf-8")]
    assert by_hand == []
