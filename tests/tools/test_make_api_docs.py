"""docs/api.md is what the docstrings say, and says it of every public name."""

import ast
import inspect

import pytest

import jinfer
from tools import make_api_docs


@pytest.fixture(scope="module")
def written() -> str:
    return make_api_docs.page_text()


def test_the_page_is_what_the_docstrings_say(written):
    assert make_api_docs.PAGE.read_text(encoding="utf-8") == written, "run `make docs`"


def test_every_public_name_has_its_heading(written):
    headings = {
        line.removeprefix("### ").strip("`") for line in written.splitlines() if line.startswith("### ")
    }

    assert {f"jinfer.{name}" for name in jinfer.__all__} <= headings
    assert {"pallas_kernels.paged_attention.decode", "pallas_kernels.rms_norm.rms_norm"} <= headings


def test_a_docstring_that_changed_is_seen(monkeypatch, capsys):
    get_source = inspect.getsource

    def changed(public):
        return get_source(public).replace("Completes prompts", "Finishes prompts")

    monkeypatch.setattr(make_api_docs.inspect, "getsource", changed)

    assert make_api_docs.main(["--check"]) == 1
    assert "make docs" in capsys.readouterr().err


def test_nothing_of_this_machine_or_process_is_on_the_page(written):
    assert " at 0x" not in written
    assert str(make_api_docs.REPOSITORY) not in written


@pytest.mark.parametrize(
    "line",
    [
        "def f(a, /, b: int = 1, *, c: str = 'x') -> int",
        "def f(*args: int, **options: Any) -> None",
        "async def f(a=1, *, b)",
    ],
)
def test_a_signature_is_written_as_in_the_source(line):
    assert make_api_docs.signature(ast.parse(f"{line}: ...").body[0]) == line


def test_a_long_signature_has_a_line_for_each_parameter():
    node = ast.parse(f"def f({', '.join(f'parameter_{index}: int' for index in range(8))}) -> int: ...").body[
        0
    ]

    lines = make_api_docs.signature(node).splitlines()

    assert lines[0] == "def f("
    assert lines[1] == "    parameter_0: int,"
    assert lines[-1] == ") -> int"
    assert len(lines) == 10


def test_fields_of_a_class_have_the_strings_below_them():
    node = ast.parse("class C:\n    a: int = 1\n    'Of a.'\n    B = 'b'\n    _c: int = 0\n").body[0]

    assert list(make_api_docs.fields(node)) == [("a: int = 1", "Of a."), ("B = 'b'", None)]


def test_text_is_escaped_and_code_is_not():
    assert make_api_docs.escaped("x ** 2 < `a * b`\n    a * b") == "x \\*\\* 2 \\< `a * b`\n    a * b"


def test_a_constant_with_an_address_is_refused():
    with pytest.raises(ValueError, match="has an address"):
        make_api_docs.value_text(object())
