"""The use that a chat template makes of the content of messages, seen in its source.

    reads parts     {% for part in message.content %}    {{ message['content'][0].text }}
                    content | selectattr(...)
    prints text     {{ message.content }}    'x' + content    content.strip()    content | trim
    tests           {% if message.content is string %}
    takes data      content | tojson    content is mapping    content.field

Names are followed through `for`, `set`, `with`, namespaces, arguments of macros, slices and filters of
`messages`. Each name stands for all that is ever assigned to it, so branches are not told apart.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from jinja2 import nodes


@dataclass(frozen=True)
class ContentUse:
    """The use that a template makes of the content of messages, anywhere in it."""

    reads_parts: bool = False  # as a list of mappings
    prints_text: bool = False  # as a string
    tests_string: bool = False  # whether it is a string, so that it does the right thing with either
    takes_data: bool = False  # as a mapping or as JSON


class _Kind(Enum):
    MESSAGES = auto()
    MESSAGE = auto()
    CONTENTS = auto()  # a list with the content of each message
    CONTENT = auto()
    PART = auto()


_ITEM_OF = {_Kind.MESSAGES: _Kind.MESSAGE, _Kind.CONTENTS: _Kind.CONTENT, _Kind.CONTENT: _Kind.PART}
_ITEM_FILTERS = {"first", "last", "random", "min", "max"}
_PART_FILTERS = {"selectattr", "rejectattr", "map", "groupby", "sum"}
_SAME_FILTERS = {
    "list",
    "reverse",
    "sort",
    "unique",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "default",
    "d",
}
_TEXT_FILTERS = {
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "join", "lower", "replace"),
    *("safe", "string", "striptags", "title", "trim", "truncate", "upper", "urlize", "wordwrap"),
}
_DATA_METHODS = {"get", "items", "keys", "values"}

_Kinds = frozenset[_Kind]
_NONE: _Kinds = frozenset()


def content_use(template: nodes.Template) -> ContentUse:
    """The use that a parsed template makes of the content of messages."""
    analysis = _Analysis(template)
    return ContentUse(
        **{name: True for node in template.find_all(nodes.Node) for name in analysis.uses(node)}
    )


class _Analysis:
    """The names and expressions that stand for messages, their content, and parts of it."""

    def __init__(self, template: nodes.Template) -> None:
        self._names: dict[str, _Kinds] = {"messages": frozenset({_Kind.MESSAGES})}
        self._macros = {macro.name: macro for macro in template.find_all(nodes.Macro)}
        bindings = [node for node in template.find_all(nodes.Node) if isinstance(node, _BINDING)]
        names: dict[str, _Kinds] | None = None
        while names != self._names:  # what a name stands for only grows, so this ends
            names = dict(self._names)
            for node in bindings:
                for name, kinds in self._bound(node):
                    self._names[name] = self._names.get(name, _NONE) | kinds

    def _bound(self, node: nodes.Node) -> Iterator[tuple[str, _Kinds]]:
        """The names that a statement binds, with what they stand for."""
        if isinstance(node, nodes.For):
            yield from _named(node.target, _items(self.kinds(node.iter)))
        elif isinstance(node, nodes.Assign):
            yield from self._assigned(node.target, node.node)
        elif isinstance(node, nodes.With):
            for target, value in zip(node.targets, node.values, strict=True):
                yield from self._assigned(target, value)
        elif (
            isinstance(node, nodes.Call)
            and isinstance(node.node, nodes.Name)
            and node.node.name in self._macros
        ):
            parameters = [argument.name for argument in self._macros[node.node.name].args]
            yield from zip(parameters, map(self.kinds, node.args), strict=False)
            yield from ((keyword.key, self.kinds(keyword.value)) for keyword in node.kwargs)

    def _assigned(self, target: nodes.Node, value: nodes.Node) -> Iterator[tuple[str, _Kinds]]:
        if isinstance(target, nodes.Tuple) and isinstance(value, nodes.Tuple):
            for one, its_value in zip(target.items, value.items, strict=False):
                yield from self._assigned(one, its_value)
        yield from _named(target, self.kinds(value))
        if isinstance(target, nodes.Name) and isinstance(value, nodes.Call):  # set ns = namespace(x=...)
            yield from (
                (f"{target.name}.{keyword.key}", self.kinds(keyword.value)) for keyword in value.kwargs
            )

    def kinds(self, node: nodes.Node) -> _Kinds:
        """The kinds of things that an expression may stand for."""
        if isinstance(node, nodes.Name):
            return self._names.get(node.name, _NONE)
        if isinstance(node, nodes.Getattr):
            return self._attribute(node.node, node.attr)
        if isinstance(node, nodes.Getitem):
            return self._item(node)
        if isinstance(node, nodes.Filter) and node.node is not None:
            return self._filtered(node, self.kinds(node.node))
        if isinstance(node, nodes.Call):
            return self._called(node)
        if isinstance(node, nodes.CondExpr):
            return self._any(node.expr1, node.expr2)
        if isinstance(node, nodes.BinExpr):  # a or b, messages + [message]
            return self._any(node.left, node.right)
        if isinstance(node, nodes.Concat):
            return _NONE
        if isinstance(node, nodes.List | nodes.Tuple):
            inside = self._any(*node.items)
            return frozenset(
                many for many, one in _ITEM_OF.items() if one in inside and one is not _Kind.PART
            )
        return _NONE

    def _any(self, *expressions: nodes.Node | None) -> _Kinds:
        return _NONE.union(*(self.kinds(one) for one in expressions if one is not None))

    def _attribute(self, node: nodes.Node, name: object) -> _Kinds:
        if isinstance(node, nodes.Name):
            if node.name == "loop" and name in ("previtem", "nextitem"):
                return frozenset({_Kind.MESSAGE})
            if f"{node.name}.{name}" in self._names:
                return self._names[f"{node.name}.{name}"]
        return (
            frozenset({_Kind.CONTENT}) if name == "content" and _Kind.MESSAGE in self.kinds(node) else _NONE
        )

    def _item(self, node: nodes.Getitem) -> _Kinds:
        if isinstance(node.arg, nodes.Slice):
            return self.kinds(node.node)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return self._attribute(node.node, node.arg.value)
        return _items(self.kinds(node.node))

    def _filtered(self, node: nodes.Filter, kinds: _Kinds) -> _Kinds:
        if node.name == "map" and _Kind.MESSAGES in kinds and "content" in map(_constant, _arguments(node)):
            return frozenset({_Kind.CONTENTS})
        if node.name == "attr" and "content" in map(_constant, node.args):
            assert node.node is not None
            return self._attribute(node.node, "content")
        if node.name in _ITEM_FILTERS:
            return _items(kinds)
        if node.name in _SAME_FILTERS:
            return kinds | (self._any(*node.args) if node.name in ("default", "d") else _NONE)
        return kinds & {_Kind.CONTENT} if node.name in _TEXT_FILTERS else _NONE

    def _called(self, node: nodes.Call) -> _Kinds:
        if isinstance(node.node, nodes.Getattr) and node.node.attr == "get" and node.args:
            return self._attribute(node.node.node, _constant(node.args[0])) | self._any(*node.args[1:])
        return _NONE

    def uses(self, node: nodes.Node) -> Iterator[str]:
        """The fields of ContentUse that a node makes true."""
        if isinstance(node, nodes.For) and _Kind.CONTENT in self.kinds(node.iter):
            yield "reads_parts"
        elif isinstance(node, nodes.Output | nodes.Concat | nodes.Add) and self._has_content(
            node.iter_child_nodes()
        ):
            yield "prints_text"
        elif isinstance(node, nodes.Test) and self._has_content([node.node]):
            yield from {"string": ["tests_string"], "mapping": ["takes_data"]}.get(node.name, [])
        elif isinstance(node, nodes.Filter) and node.node is not None and self._has_content([node.node]):
            yield from self._uses_of_filter(node.name)
        elif isinstance(node, nodes.Getattr):
            yield from self._uses_of_field(self.kinds(node.node), node.attr)
        elif isinstance(node, nodes.Getitem) and isinstance(name := _constant(node.arg), str):
            yield from self._uses_of_field(self.kinds(node.node), name)

    def _has_content(self, expressions: Iterable[nodes.Node]) -> bool:
        return any(_Kind.CONTENT in self.kinds(one) for one in expressions)

    @staticmethod
    def _uses_of_filter(name: str) -> Iterator[str]:
        if name in _PART_FILTERS:
            yield "reads_parts"
        elif name in ("tojson", "items", "dictsort"):
            yield "takes_data"
        elif name in _TEXT_FILTERS:
            yield "prints_text"

    @staticmethod
    def _uses_of_field(kinds: _Kinds, name: str) -> Iterator[str]:
        if _Kind.PART in kinds:
            yield "reads_parts"
        if _Kind.CONTENT in kinds:
            yield "prints_text" if hasattr(str, name) and name not in _DATA_METHODS else "takes_data"


_BINDING = (nodes.For, nodes.Assign, nodes.With, nodes.Call)


def _named(target: nodes.Node, kinds: _Kinds) -> Iterator[tuple[str, _Kinds]]:
    if isinstance(target, nodes.Name):
        yield target.name, kinds
    elif isinstance(target, nodes.NSRef):
        yield f"{target.name}.{target.attr}", kinds


def _items(kinds: _Kinds) -> _Kinds:
    return frozenset(_ITEM_OF[kind] for kind in kinds if kind in _ITEM_OF)


def _arguments(node: nodes.Filter) -> list[nodes.Node]:
    return [*node.args, *(keyword.value for keyword in node.kwargs)]


def _constant(node: nodes.Node) -> object:
    return node.value if isinstance(node, nodes.Const) else None
