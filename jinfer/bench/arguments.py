"""Numbers of the command line, which argparse refuses where they make no sense."""

import math
from collections.abc import Callable
from typing import Any


def positive(kind: type) -> Callable[[str], Any]:
    """The type of an argument that is greater than 0 and finite."""
    return _number(kind, f"positive {kind.__name__}", lambda value: 0 < value < math.inf)


def not_negative(kind: type) -> Callable[[str], Any]:
    """The type of an argument that is 0 or greater, and finite."""
    return _number(kind, f"non-negative {kind.__name__}", lambda value: 0 <= value < math.inf)


def _number(kind: type, name: str, is_allowed: Callable[[Any], bool]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not is_allowed(value):
            raise ValueError
        return value

    parse.__name__ = name
    return parse
