"""What `import jinfer` gives: names that exist and are documented, and the tree of errors."""

import ast
import inspect
import re

import pytest

import jinfer
from jinfer import errors

LINE_OF_TREE = re.compile(r"(?P<indent>[ │]*)(?:[├└]── )?(?P<name>[A-Z]\w*Error)\b.*")
WIDTH_OF_LEVEL = 4


@pytest.mark.parametrize("name", jinfer.__all__)
def test_every_public_name_exists_and_has_a_docstring(name):
    public = getattr(jinfer, name)

    assert inspect.getdoc(public)
    assert public.__module__.startswith("jinfer.")
    for member in (m for m in vars(public) if not m.startswith("_")) if inspect.isclass(public) else ():
        value = inspect.getattr_static(public, member)
        if isinstance(value, property | classmethod) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{member} has no docstring"


def test_all_is_what_type_checkers_see_imported():
    tree = ast.parse(inspect.getsource(jinfer))
    imported = [
        alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(jinfer.__all__) == sorted(set(imported) - {"TYPE_CHECKING", "Any"})
    assert set(jinfer.__all__) <= set(dir(jinfer))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        jinfer.Engine  # noqa: B018


def drawn_tree(docstring: str) -> dict[str, str | None]:
    """Each error of the drawing with the one it hangs under."""
    parents, above = {}, []
    for line in docstring.splitlines():
        found = LINE_OF_TREE.fullmatch(line.removeprefix(" " * WIDTH_OF_LEVEL))
        if found is None:
            continue
        is_root = "──" not in line
        depth = 0 if is_root else 1 + len(found["indent"]) // WIDTH_OF_LEVEL
        above = above[:depth]
        parents[found["name"]] = above[-1] if above else None
        above.append(found["name"])
    return parents


def defined_tree() -> dict[str, str | None]:
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    return {
        cls.__name__: next(
            (base.__name__ for base in cls.__bases__ if issubclass(base, errors.JinferError)), None
        )
        for cls in classes
    }


def test_the_errors_are_those_that_are_drawn():
    assert drawn_tree(errors.__doc__) == defined_tree()
    assert list(drawn_tree(errors.__doc__).values()).count(None) == 1


def test_every_error_is_public():
    assert set(defined_tree()) <= set(jinfer.__all__)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (jinfer.ConfigError, ValueError),
        (jinfer.InsufficientMemoryError, ValueError),
        (jinfer.ModelNotFoundError, FileNotFoundError),
        (jinfer.UnsupportedModelError, ValueError),
        (jinfer.CheckpointError, ValueError),
        (jinfer.TokenizerError, ValueError),
        (jinfer.RequestError, ValueError),
        (jinfer.EngineError, RuntimeError),
    ],
)
def test_code_written_against_the_standard_library_catches_them(error, builtin):
    assert issubclass(error, builtin)
