"""The Lark rules of a tool's arguments where they are written by name, and not as a JSON object."""

from collections.abc import Mapping
from typing import Any

from jinfer.text.grammar.lark import quoted
from jinfer.text.grammar.schema_parts import KEYWORDS, SchemaParts
from jinfer.text.grammar.tool_call_format import NamedArguments
from jinfer.text.grammar.value_rules import ValueRules, union_of
from jinfer.text.output_parsing.tool_schemas import ToolSchemas


class NamedArgumentRules:
    """Adds the rules of one tool's arguments to `rules`, from names to bodies; `name` begins their names."""

    def __init__(
        self,
        syntax: NamedArguments,
        rules: dict[str, str],
        *,
        tool: str,
        parameters: Mapping[str, Any],
        name: str,
    ) -> None:
        self._syntax = syntax
        self._tool = tool
        self._parameters = parameters
        self._read_types = ToolSchemas([{"name": tool, "parameters": parameters}]).types
        self._parts = SchemaParts(parameters, f"the tool {tool!r}")
        self._values = ValueRules(syntax, rules, parts=self._parts, name=name)

    def symbols(self, *, must_fit: bool) -> str:
        """The symbols of all arguments, which fit the schema; else, any values of those that it names.

        Raises RequestError for a name that the format cannot write, and for a schema of which it is not known
        how to write only values that fit.
        """
        if not self._syntax.function_names.fullmatch(self._tool):
            raise self._parts.refused("name", self._tool, "the format cannot write the name; choose another")
        try:
            parts = self._fitting() if must_fit else self._free()
            return self._values.in_order(parts, self._syntax.separator)
        except RecursionError as error:
            raise self._parts.refused(
                "parameters", self._parameters, "nested too deeply; nest less"
            ) from error

    def _fitting(self) -> list[tuple[str, bool]]:
        """The symbols of each argument, and whether it is required."""
        parts = []
        for name, schema, is_required in self._parts.properties(self._object_keywords(), "parameters"):
            where = f"parameters.properties.{name}"
            if not self._syntax.names.fullmatch(name):
                raise self._parts.refused(where, schema, "the format cannot write the name; choose another")
            parts.append((self._argument(name, self._fitting_value(name, schema, where)), is_required))
        return parts

    def _object_keywords(self) -> Mapping[str, Any]:
        plain = self._parts.keywords(self._parameters, "parameters")
        self._parts.check_keywords(plain, "parameters", {"type"} | KEYWORDS["object"])
        if plain.get("type", "object") != "object":
            raise self._parts.refused(
                "parameters.type", plain["type"], "arguments are an object; give that type"
            )
        if not plain.get("properties") and plain.get("additionalProperties", False) is not False:
            raise self._parts.refused(
                "parameters.additionalProperties",
                plain["additionalProperties"],
                "arguments are written by name; name them in properties",
            )
        return plain

    def _free(self) -> list[tuple[str, bool]]:
        properties = self._parameters.get("properties")
        given = properties if isinstance(properties, Mapping) else ()
        names = [name for name in given if self._syntax.names.fullmatch(name)]
        value = self._values.free(is_bare=self._syntax.has_bare_text)
        end = "" if self._syntax.has_bare_text else self._end
        return [(self._argument(name, f"{value} {end}"), False) for name in names]

    def _fitting_value(self, name: str, schema: Any, where: str) -> str:
        """A text that the reader would take for another type is left out, and bare text for what is none."""
        types = self._read_types(self._tool, name)
        is_text_kept = not types or "string" in types
        is_bare = self._syntax.has_bare_text and is_text_kept
        found = self._values.alternatives(schema, where, is_bare=is_bare)
        if is_bare:
            found = [one for one in found if one.type == "string"]
        elif not is_text_kept:
            kept = types | ({"integer"} if "number" in types else set())
            found = [one for one in found if one.type in kept]
        if not found:
            raise self._parts.refused(
                where, schema, "the reader of calls takes all for text; give a JSON 'type'"
            )
        return union_of(found) if is_bare else f"{union_of(found)} {self._end}"

    @property
    def _end(self) -> str:
        return quoted(self._syntax.end) if self._syntax.end else ""

    def _argument(self, name: str, value: str) -> str:
        return f"{quoted(self._syntax.begin + name + self._syntax.middle)} {value}"
