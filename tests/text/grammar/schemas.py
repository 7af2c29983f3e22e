"""Random JSON schemas, of keywords that llguidance keeps."""

import random
from typing import Any

Schema = dict[str, Any]
PATTERNS = ("^[a-f]{1,4}$", "^(yes|no)$", "x?y")


def random_schema(draw: random.Random) -> Schema:
    """An object's schema, often with definitions that it refers to, one of them recursive."""
    schema = _object(draw, depth=3)
    return {**schema, "$defs": {"leaf": _leaf(draw), "tree": _tree(draw)}}


def _tree(draw: random.Random) -> Schema:
    properties = {"value": _leaf(draw), "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}
    return {"type": "object", "properties": properties, "required": ["value"], "additionalProperties": False}


def _any(draw: random.Random, depth: int) -> Schema:
    makers = [_leaf] * 3 if depth == 0 else [_leaf, _leaf, _object, _array, _either, _reference]
    return draw.choice(makers)(draw, depth)


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(["a", "b c", "é", 'q"', "key", "x" * 20], draw.randint(0, 4))
    schema: Schema = {"type": "object", "properties": {name: _any(draw, depth - 1) for name in names}}
    if names and draw.random() < 0.7:
        schema["required"] = draw.sample(names, draw.randint(1, len(names)))
    if draw.random() < 0.7:
        schema["additionalProperties"] = draw.choice([False, False, _leaf(draw)])
    return schema


def _array(draw: random.Random, depth: int) -> Schema:
    schema: Schema = {"type": "array", "items": _any(draw, depth - 1)}
    if draw.random() < 0.3:
        schema["prefixItems"] = [_leaf(draw), _leaf(draw)]
    if draw.random() < 0.7:
        schema |= {"minItems": draw.randint(0, 2), "maxItems": draw.randint(2, 4)}
    return schema


def _either(draw: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(draw, depth - 1) for _ in range(draw.randint(1, 3))]}


def _reference(draw: random.Random, depth: int) -> Schema:
    return {"$ref": draw.choice(["#/$defs/leaf", "#/$defs/tree"])}


def _leaf(draw: random.Random, depth: int = 0) -> Schema:
    low = draw.randint(-1000, 1000)
    return draw.choice(
        [
            {"type": "string", "minLength": draw.randint(0, 2), "maxLength": draw.randint(2, 12)},
            {"type": "string", "pattern": draw.choice(PATTERNS)},
            {"type": "string", "format": draw.choice(["date", "uuid", "ipv4"])},
            {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 300)},
            {"type": "integer", "multipleOf": draw.randint(2, 9)},
            {"type": "number", "exclusiveMinimum": low, "maximum": low + 10},
            {"type": draw.choice(["boolean", "null", "string", "number"])},
            {"type": ["integer", "null"]},
            {"enum": draw.sample(["red", 1, 2.5, None, True, "é", {"k": [1]}], 3)},
            {"const": draw.choice(["only", 42, False])},
        ]
    )
