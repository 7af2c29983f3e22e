"""What the documents name exists: the tests of docs/limits.md, and the files that links lead to."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from jinfer.config import EngineConfig, SchedulingPolicy

REPOSITORY = Path(__file__).resolve().parents[1]
LIMITS = REPOSITORY / "docs" / "limits.md"
FOLDERS = REPOSITORY / "docs", REPOSITORY / "benchmarks"
DOCUMENTS = sorted(REPOSITORY.glob("*.md")) + sorted(
    page for folder in FOLDERS for page in folder.rglob("*.md")
)
NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)((?:::\w+)+)`")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
NO_TEST = "no test: "  # and why


def rows() -> list[str]:
    """Those of the tables, without their heads."""
    lines = LIMITS.read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    heads = {place for place, line in enumerate(lines) if line.startswith("|--")}
    head_lines = {lines[place - 1] for place in heads}
    return [line for line in tables if not line.startswith("|--") and line not in head_lines]


def defined(body: list[ast.stmt], names: tuple[str, ...]) -> bool:
    """Whether the names, each within the one before, are classes and functions there."""
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == names[0]:
            return len(names) == 1 or defined(statement.body, names[1:])
    return False


def named_tests() -> list[tuple[str, tuple[str, ...]]]:
    found = sorted(set(NAMED_TEST.findall(LIMITS.read_text(encoding="utf-8"))))
    return [(path, tuple(names.removeprefix("::").split("::"))) for path, names in found]


def test_every_line_of_the_limits_names_a_test_or_says_why_there_is_none():
    assert len(rows()) > 50
    assert [row for row in rows() if not NAMED_TEST.search(row) and NO_TEST not in row] == []


@pytest.mark.parametrize(
    ("path", "names"), named_tests(), ids=lambda part: part if isinstance(part, str) else part[-1]
)
def test_a_test_that_the_limits_name_exists(path, names):
    file = REPOSITORY / path
    assert file.is_file()
    assert names[-1].startswith("test_")
    assert defined(ast.parse(file.read_text(encoding="utf-8")).body, names)


def test_everything_that_looks_like_a_test_is_read_as_one():
    text = LIMITS.read_text(encoding="utf-8")
    assert len(re.findall(r"::test_", text)) == len(NAMED_TEST.findall(text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_to_files(document):
    targets = [target for target in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_files_of_a_decode_step_are_as_many_and_as_long_as_the_table_says():
    """Lines within a tenth: the table is of the size of the reading, not of the last edit."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("## One decode step, file by file")[1].split("\n## ")[0]
    num_files, num_lines = re.search(r"(\d+) files of ([\d,]+) lines", section).groups()
    rows = [line.rstrip(" |").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    found = [(LINK.findall(row[-2]), int(row[-1])) for row in rows]
    lengths = [
        [len((REPOSITORY / "docs" / name).read_text(encoding="utf-8").splitlines()) for name in names]
        for names, _ in found
    ]
    assert sum(map(len, lengths)) == int(num_files)
    assert [sum(each) for each in lengths] == pytest.approx([said for _, said in found], rel=0.1)
    assert sum(map(sum, lengths)) == pytest.approx(int(num_lines.replace(",", "")), rel=0.1)


def test_tuning_names_options_that_there_are():
    """The first cell of each row names options of an engine."""
    rows = re.findall(
        r"^\| (`[a-z_]+`[^|]*) \|", (REPOSITORY / "docs" / "tuning.md").read_text("utf-8"), re.M
    )
    named = {name for row in rows for name in re.findall(r"`([a-z]+_[a-z_]+)`", row)}
    assert len(named) > 8
    assert named - set(EngineConfig.options()) - set(get_args(SchedulingPolicy)) == set()
