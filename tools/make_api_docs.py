"""Writes docs/api.md: the signatures and docstrings of the public names of both packages.

    python -m tools.make_api_docs            writes the page
    python -m tools.make_api_docs --check    fails if the page is not what would be written

The names are those of `jinfer.__all__` and `jinfer.modeling.__all__`, and of the `__all__` of each folder
of `pallas_kernels` but `core`. Signatures are taken from the sources and not from the objects, so that the
page has neither addresses nor paths, and is the same on every machine.
"""

import argparse
import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "api.md"
MAX_SIGNATURE_WIDTH = 100  # a longer one has a line for each parameter
SHARED_FOLDERS = ("core",)  # of pallas_kernels, which are no operations
INTRODUCTION = """# API

Written from the docstrings by `make docs`. What is not here is private to its package, and may change at any
time."""
CODE_OR_SPECIAL = re.compile(r"`[^`]*`|[*<]")
SINGLE_QUOTED = re.compile(r"'([^'\"\\\\]*)'")  # as ast.unparse writes strings

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(arguments: Sequence[str]) -> int:
    """Writes or checks the page; the exit status is 1 where a check fails."""
    parser = argparse.ArgumentParser(
        "python -m tools.make_api_docs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is another")
    options = parser.parse_args(arguments)
    text = page_text()
    if not options.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    is_same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
    if not is_same:
        print(
            f"{PAGE.relative_to(REPOSITORY)} is not what the docstrings say: run `make docs`", file=sys.stderr
        )
    return int(not is_same)


def page_text() -> str:
    """The whole page."""
    paragraphs = [INTRODUCTION]
    for module in public_modules():
        paragraphs += [f"## {module.__name__}", *docstring_paragraphs(inspect.getdoc(module))]
        for name in module.__all__:
            paragraphs += entry(module, name)
    return "\n\n".join(paragraphs) + "\n"


def public_modules() -> Iterator[ModuleType]:
    """`jinfer` and `jinfer.modeling`, then `pallas_kernels` and its operations in the order of their
    names."""
    yield importlib.import_module("jinfer")
    yield importlib.import_module("jinfer.modeling")
    kernels = importlib.import_module("pallas_kernels")
    if getattr(kernels, "__all__", ()):
        yield kernels
    for found in sorted(pkgutil.iter_modules(kernels.__path__), key=lambda found: found.name):
        if found.ispkg and found.name not in SHARED_FOLDERS:
            module = importlib.import_module(f"pallas_kernels.{found.name}")
            if getattr(module, "__all__", ()):
                yield module


def entry(module: ModuleType, name: str) -> list[str]:
    """The paragraphs of a public name: nothing for a module, and its value for a constant."""
    public = inspect.unwrap(getattr(module, name))
    if inspect.ismodule(public):
        return []
    heading = f"### `{module.__name__}.{name}`"
    if not (inspect.isclass(public) or inspect.isfunction(public)):
        return [heading, f"`{name} = {value_text(public)}`"]
    node = ast.parse(textwrap.dedent(inspect.getsource(public))).body[0]
    if isinstance(node, ast.ClassDef):
        return [heading, source_link(public), *class_paragraphs(node)]
    assert isinstance(node, Function), ast.dump(node)
    return [
        heading,
        source_link(public),
        code(signature(node)),
        *docstring_paragraphs(ast.get_docstring(node)),
    ]


def class_paragraphs(node: ast.ClassDef) -> list[str]:
    """The class with its fields or members, its docstring, and its public methods."""
    bases = ", ".join(ast.unparse(base) for base in [*node.bases, *node.keywords])
    methods = {each.name: each for each in node.body if isinstance(each, Function)}
    decorators = [f"@{ast.unparse(decorator)}" for decorator in node.decorator_list]
    members = [f"    {line}" for line, _ in fields(node)]
    lines = [*decorators, f"class {node.name}{f'({bases})' if bases else ''}", *members]
    paragraphs = [code("\n".join(lines)), *docstring_paragraphs(ast.get_docstring(node))]
    documented = [(line.split(":")[0].split(" ")[0], text) for line, text in fields(node) if text]
    if documented:
        paragraphs.append(
            "\n".join(f"- `{name}`: {escaped(' '.join(text.split()))}" for name, text in documented)
        )
    for name, method in methods.items():
        if name == "__init__" or not name.startswith("_"):
            paragraphs += method_paragraphs(node.name, method)
    return paragraphs


def fields(node: ast.ClassDef) -> Iterator[tuple[str, str | None]]:
    """The public fields and members of a class as they are written, each with the string below it."""
    for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            target = ast.unparse(statement.target)
        elif isinstance(statement, ast.Assign):
            target = ast.unparse(statement.targets[0])
        else:
            continue
        if not target.startswith("_"):
            has_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            text = below.value.value if has_text else None
            yield ast.unparse(statement), text if isinstance(text, str) else None


def method_paragraphs(class_name: str, method: Function) -> list[str]:
    """A method, or a property as the field that it looks like."""
    decorators = [ast.unparse(decorator) for decorator in method.decorator_list]
    is_property = any(name.endswith("property") for name in decorators)
    marks = "".join(f"@{name}\n" for name in decorators if name in ("classmethod", "staticmethod"))
    if is_property:
        text = f"{method.name}: {ast.unparse(method.returns)}" if method.returns else method.name
    else:
        text = marks + signature(method)
    heading = f"#### `{class_name}.{method.name}`"
    return [heading, code(text), *docstring_paragraphs(ast.get_docstring(method))]


def signature(node: Function) -> str:
    """The line of `def`, without self; over several lines where it is long."""
    prefix = f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}def {node.name}("
    returns = f") -> {ast.unparse(node.returns)}" if node.returns else ")"
    parameters = [text for text in parameter_texts(node.args) if text not in ("self", "cls")]
    line = prefix + ", ".join(parameters) + returns
    if len(line) <= MAX_SIGNATURE_WIDTH:
        return line
    return "\n".join([prefix, *(f"    {text}," for text in parameters), returns])


def parameter_texts(arguments: ast.arguments) -> Iterator[str]:
    """Each parameter as it is written, with the marks `/` and `*`."""
    positional = [*arguments.posonlyargs, *arguments.args]
    missing = len(positional) - len(arguments.defaults)
    for index, (argument, default) in enumerate(
        zip(positional, [None] * missing + arguments.defaults, strict=True)
    ):
        yield parameter_text(argument, default)
        if index + 1 == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg:
        yield f"*{parameter_text(arguments.vararg, None)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield parameter_text(argument, default)
    if arguments.kwarg:
        yield f"**{parameter_text(arguments.kwarg, None)}"


def parameter_text(argument: ast.arg, default: ast.expr | None) -> str:
    """`name: annotation = default`, with what is given of it."""
    annotation = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    if default is None:
        return argument.arg + annotation
    return f"{argument.arg}{annotation}{' = ' if annotation else '='}{ast.unparse(default)}"


def source_link(public: Any) -> str:
    """Where it is defined, from the folder of the page."""
    path = Path(inspect.getsourcefile(public) or "").resolve().relative_to(REPOSITORY).as_posix()
    return f"[{path}](../{path})"


def value_text(value: Any) -> str:
    """The value of a constant, which must be the same in every process."""
    text = repr(value)
    if " at 0x" in text:
        raise ValueError(f"{text} has an address: give it a repr, or leave it out of __all__")
    return text


def docstring_paragraphs(docstring: str | None) -> list[str]:
    """The docstring as Markdown: what is indented four columns is code, and the rest is text."""
    return [escaped(docstring.strip())] if docstring else []


def escaped(text: str) -> str:
    """Text in which `*` and `<` stand for themselves, but for code."""

    def escape(match: re.Match[str]) -> str:
        return match[0] if match[0].startswith("`") else f"\\{match[0]}"

    lines = text.splitlines()
    return "\n".join(line if line.startswith("    ") else CODE_OR_SPECIAL.sub(escape, line) for line in lines)


def code(text: str) -> str:
    """A block of Python, with the quotes that the sources have."""
    quoted = SINGLE_QUOTED.sub(r'"\1"', text)
    return f"```python\n{quoted}\n```"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
