"""The Lark rules of values that fit a JSON schema, for formats that write values in a syntax of their own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jinfer.text.grammar.lark import quoted
from jinfer.text.grammar.schema_parts import KEYWORDS, NUMBER_KEYWORDS, SchemaParts
from jinfer.text.grammar.tool_call_format import NamedArguments
from jinfer.text.grammar.value_terminals import INTEGER, NUMBER, bare_text, constants, string_terminal, times
from jinfer.text.output_parsing.tool_schemas import TYPE_NAMES

ANY_TYPE = ("string", "number", "boolean", "null", "array", "object")
UNIONS = ("$ref", "anyOf", "oneOf", "allOf")
MAX_NUMBER = 10**18
"""The bound on the side on which a schema with a bound on the other gives none: readers take no number of any
length."""


class Alternative(NamedTuple):
    """One type that a value may have, and the symbols of its values."""

    type: str
    symbols: str


class ValueRules:
    """Adds rules of values to `rules`, from names to bodies. `name` begins the names of those that belong to
    the schemas of `parts`.

    The rules cover the keywords of KEYWORDS, enum, const, anyOf, references to definitions, allOf with one
    part, and oneOf whose parts have different types. Any other is refused with a RequestError.
    """

    def __init__(
        self, syntax: NamedArguments, rules: dict[str, str], *, parts: SchemaParts, name: str
    ) -> None:
        self._syntax = syntax
        self._rules = rules
        self._parts = parts
        self._name = name
        self._num_rules = 0
        self._containers: dict[tuple[int | None, str], str] = {}
        self._referring: tuple[Any, ...] = ()  # references that lead to the present schema

    def alternatives(self, schema: Any, where: str, *, is_bare: bool = False) -> list[Alternative]:
        """The types that a value may have, and the symbols of each. With `is_bare` texts are written without
        quotes, and their symbols include the end of the argument."""
        plain = self._parts.keywords(schema, where)
        for union in UNIONS:
            if union in plain:
                return self._union(union, plain, where, is_bare)
        if "enum" in plain or "const" in plain:
            return self._constants(plain, where, is_bare)
        types = self._parts.types(plain, where) if plain else ANY_TYPE
        self._parts.check_keywords(plain, where, {"type"}.union(*(KEYWORDS[one] for one in types)))
        return [Alternative(one, self._typed(one, schema, plain, where, is_bare)) for one in types]

    def free(self, *, is_bare: bool = False) -> str:
        """The symbols of any value."""
        if is_bare:
            return self.rule(bare_text(self._syntax), suffix="[lazy]")
        return union_of(self.alternatives({}, ""))

    def rule(self, body: str, suffix: str = "") -> str:
        """The name of a new rule."""
        name = f"{self._name}_{self._num_rules}"
        self._num_rules += 1
        self._rules[name + suffix] = body
        return name

    def in_order(self, parts: Sequence[tuple[str, bool]], separator: str) -> str:
        """The symbols of parts in their order, those that are not required left out or not."""
        rest = ""
        choices: list[str] = []
        names = [(self.rule(symbols), is_required) for symbols, is_required in parts]
        for symbols, is_required in reversed(names):
            choices = [f"{symbols} {rest}", *([] if is_required else choices)]
            one = f"{quoted(separator)} {symbols}" if separator else symbols
            rest = self.rule(f"{one if is_required else f'({one})?'} {rest}")
        symbols = f"({' | '.join(choices)})" if choices else ""
        return symbols if any(is_required for _, is_required in parts) or not choices else f"{symbols}?"

    def _union(self, key: str, plain: Mapping[str, Any], where: str, is_bare: bool) -> list[Alternative]:
        self._parts.check_keywords(plain, where, {key})
        if key == "$ref":
            return self._reference(plain[key], where, is_bare)
        choices = plain[key]
        if not isinstance(choices, list) or not choices or (key == "allOf" and len(choices) > 1):
            raise self._parts.refused(
                f"{where}.{key}", choices, "it must be a list, and allOf of one; join the parts"
            )
        parts = [
            self.alternatives(choice, f"{where}.{key}[{index}]", is_bare=is_bare)
            for index, choice in enumerate(choices)
        ]
        types = [one for part in parts for one in {"number" if a.type == "integer" else a.type for a in part}]
        if key == "oneOf" and len(set(types)) < len(types):
            raise self._parts.refused(f"{where}.oneOf", choices, "two parts may hold of one value; use anyOf")
        return [one for part in parts for one in part]

    def _reference(self, reference: Any, where: str, is_bare: bool) -> list[Alternative]:
        found = self._parts.definition(reference, where)
        if reference in self._referring:
            raise self._parts.refused(f"{where}.$ref", reference, "it leads to itself; give it a 'type'")
        before = self._referring
        self._referring = (*before, reference)
        alternatives = self.alternatives(found, where, is_bare=is_bare)
        self._referring = before
        return alternatives

    def _constants(self, plain: Mapping[str, Any], where: str, is_bare: bool) -> list[Alternative]:
        key = "enum" if "enum" in plain else "const"
        self._parts.check_keywords(plain, where, {key, "type"})
        values = plain[key] if key == "enum" else [plain[key]]
        types = self._parts.types(plain, where) if "type" in plain else list(KEYWORDS)
        found = []
        for value in values if isinstance(values, list) else []:
            name = TYPE_NAMES.get(type(value), "null")
            if name in types or (name == "integer" and "number" in types):
                found += [Alternative(name, text) for text in self._constant(value, where, is_bare=is_bare)]
        if not found:
            raise self._parts.refused(
                f"{where}.{key}", plain[key], "no value of it has the 'type'; correct them"
            )
        return found

    def _constant(self, value: Any, where: str, *, is_bare: bool) -> list[str]:
        try:
            return constants(self._syntax, value, is_bare=is_bare and isinstance(value, str))
        except ValueError as error:
            raise self._parts.refused(where, value, f"{error}; choose another") from error

    def _typed(self, name: str, schema: Any, plain: Mapping[str, Any], where: str, is_bare: bool) -> str:
        match name:
            case "string":
                return self._string(plain, where, is_bare)
            case "number" | "integer":
                return self._number(name, plain)
            case "boolean":
                return f"({quoted(self._syntax.true)} | {quoted(self._syntax.false)})"
            case "null":
                return quoted(self._syntax.null)
            case _:
                return self._container(name, schema, plain, where)

    def _string(self, plain: Mapping[str, Any], where: str, is_bare: bool) -> str:
        for key in ("pattern", "format"):
            if key in plain and self._syntax.excluded:
                raise self._parts.refused(
                    f"{where}.{key}", plain[key], "texts are kept by length or enum; leave it out"
                )
            if key in plain:
                given = {"type": "string"} | {one: plain[one] for one in KEYWORDS["string"] & plain.keys()}
                return self.rule(f"%json {json.dumps(given)}")
        repeat = times(*self._parts.counts(plain, "minLength", "maxLength", where))
        if is_bare:
            return self.rule(bare_text(self._syntax, repeat), suffix="[lazy]")
        name = "STRING" if repeat == "*" else f"{self._name.upper()}_{self._num_rules}"
        self._num_rules += 1
        self._rules[name] = string_terminal(self._syntax, repeat)
        return name

    def _number(self, name: str, plain: Mapping[str, Any]) -> str:
        given = {key: plain[key] for key in NUMBER_KEYWORDS & plain.keys()}
        if not given:
            self._rules[name.upper()] = INTEGER if name == "integer" else NUMBER
            return name.upper()
        if "exclusiveMinimum" not in given:
            given.setdefault("minimum", -MAX_NUMBER)
        if "exclusiveMaximum" not in given:
            given.setdefault("maximum", MAX_NUMBER)
        return self.rule(f"%json {json.dumps({'type': name, **given})}")

    def _container(self, name: str, schema: Any, plain: Mapping[str, Any], where: str) -> str:
        """The name of the rule, which may be needed within itself."""
        is_any = not KEYWORDS[name] & plain.keys()
        key = (None if is_any else id(schema), name)
        if key not in self._containers:
            self._containers[key] = f"any_{name}" if is_any else self.rule("")
            referring, self._referring = self._referring, ()
            body = self._array(plain, where) if name == "array" else self._object(plain, where)
            self._rules[self._containers[key]] = body
            self._referring = referring
        return self._containers[key]

    def _array(self, plain: Mapping[str, Any], where: str) -> str:
        minimum, maximum = self._parts.counts(plain, "minItems", "maxItems", where)
        if maximum == 0:
            return quoted("[]")
        item = self.rule(union_of(self.alternatives(plain.get("items", True), f"{where}.items")))
        more = times(max(minimum - 1, 0), None if maximum is None else maximum - 1)
        return f'"[" ({item} (", " {item}){more}){"" if minimum else "?"} "]"'

    def _object(self, plain: Mapping[str, Any], where: str) -> str:
        """An object that has named properties has no others."""
        parts = []
        for name, schema, is_required in self._parts.properties(plain, where):
            key = " | ".join(self._constant(name, f"{where}.properties", is_bare=False))
            value = union_of(self.alternatives(schema, f"{where}.properties.{name}"))
            parts.append((f'({key}) ": " {value}', is_required))
        additional = plain.get("additionalProperties", True)
        if parts or additional is False:
            return f'"{{" {self.in_order(parts, ", ")} "}}"'
        value = union_of(self.alternatives(additional, f"{where}.additionalProperties"))
        pair = self.rule(f'{self._string({}, where, False)} ": " {value}')
        return f'"{{" ({pair} (", " {pair})*)? "}}"'


def union_of(alternatives: Iterable[Alternative]) -> str:
    """The symbols of any of them."""
    return f"({' | '.join(one.symbols for one in alternatives)})"
