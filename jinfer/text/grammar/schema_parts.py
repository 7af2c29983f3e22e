"""The parts of a JSON schema of which rules of values are made. What they do not know, they refuse."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jinfer.errors import RequestError, shown

ANNOTATIONS = {
    *(
        "title",
        "description",
        "default",
        "example",
        "examples",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
    ),
    *("$schema", "$id", "$defs", "definitions", "nullable"),
}
NUMBER_KEYWORDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
KEYWORDS: Mapping[str, set[str]] = {
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {*NUMBER_KEYWORDS, "format"},  # such as "int64", which says nothing that is checked
    "integer": {*NUMBER_KEYWORDS, "format"},
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/~%]+)")


class SchemaParts:
    """Reads the parts of the schemas in `root`, a tool's parameters. Each method raises RequestError, in
    which `what` names the tool and `where` the place of the schema."""

    def __init__(self, root: Mapping[str, Any], what: str) -> None:
        self._root = root
        self._what = what

    def keywords(self, schema: Any, where: str) -> Mapping[str, Any]:
        """The schema without what says nothing of values."""
        if schema is True:
            return {}
        if not isinstance(schema, Mapping):
            raise self.refused(where, schema, "no value fits, or it is no schema; give one that values fit")
        return {key: value for key, value in schema.items() if key not in ANNOTATIONS}

    def check_keywords(self, plain: Mapping[str, Any], where: str, known: Iterable[str]) -> None:
        """Refuses a keyword that is not among those that are known."""
        for key in plain:
            if key not in known:
                why = f"it is not known beside {', '.join(sorted(known))}; leave it out"
                raise self.refused(f"{where}.{key}", plain[key], why)

    def types(self, plain: Mapping[str, Any], where: str) -> list[str]:
        """The types that a schema declares."""
        declared = plain.get("type", [])
        types = declared if isinstance(declared, list) else [declared]
        if not types or not all(isinstance(one, str) and one in KEYWORDS for one in types):
            why = f"its 'type' must be one or some of {', '.join(KEYWORDS)}; give it"
            raise self.refused(where, plain, why)
        return types

    def properties(self, plain: Mapping[str, Any], where: str) -> list[tuple[str, Any, bool]]:
        """The name and schema of each property of an object, and whether it is required."""
        properties, required = plain.get("properties", {}), plain.get("required", [])
        if not isinstance(properties, Mapping) or not isinstance(required, list):
            raise self.refused(where, plain, "properties are an object and required a list; correct them")
        for name in required:
            if name not in list(properties):
                raise self.refused(f"{where}.required", required, f"add {shown(name)} to its properties")
        return [(name, schema, name in required) for name, schema in properties.items()]

    def counts(self, plain: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
        """The least and the greatest count that a schema gives; no greatest is None."""
        minimum, maximum = plain.get(least, 0), plain.get(most)
        is_count = all(type(one) is int and one >= 0 for one in (minimum, maximum) if one is not None)
        if not is_count or minimum is None or (maximum is not None and maximum < minimum):
            why = f"{least} and {most} are counts, and the second is not below the first; correct them"
            raise self.refused(where, plain, why)
        return minimum, maximum

    def definition(self, reference: Any, where: str) -> Any:
        """The schema to which a reference leads."""
        match = REFERENCE.fullmatch(str(reference))
        definitions = self._root.get(match[1]) if match else None
        if match is None or not isinstance(definitions, Mapping) or match[2] not in definitions:
            why = "it must lead to a schema in $defs of the tool's parameters; write it there"
            raise self.refused(f"{where}.$ref", reference, why)
        return definitions[match[2]]

    def refused(self, where: str, value: Any, why: str) -> RequestError:
        return RequestError(
            f"{self._what} has {where}={shown(value)}, to which arguments cannot be forced in the way in "
            f"which the model writes them: {why}, or force no calls and let no tool be strict",
            param="tools",
        )
