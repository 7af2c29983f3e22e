"""Entries of a model's JSON files, read by name and type: what is malformed is refused before weights are
read."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NoReturn, TypeVar

from jinfer.errors import UnsupportedModelError

MAX_INTEGER = 2**31 - 1  # shapes and positions are int32 on the device
Default = TypeVar("Default")
NEEDED = "which the architecture needs; add it or fetch the file again"


class Entries:
    """A JSON object. Each method reads one entry and checks it.

    An entry that is absent, or null, means `default`. All raise UnsupportedModelError, which names the entry,
    its value and the rule. Booleans are no numbers, and numbers that are written as reals (96.0) are no
    integers, as in transformers 5.
    """

    def __init__(self, raw: Mapping[str, Any], name: str = "config.json") -> None:
        """`name` is the name of the object in messages."""
        self.raw, self.name = raw, name
        self._names: set[str] = set()

    def changed(self, raw: Mapping[str, Any]) -> "Entries":
        """Others in place of these, under the same name: what is read of either is read of both."""
        other = Entries(raw, self.name)
        other._names = self._names
        return other

    def has(self, name: str) -> bool:
        """True if an entry is there and not null."""
        return self._value(name) is not None

    def unread(self) -> list[str]:
        """Entries that are there and not null, and that no method has read."""
        return [name for name, value in self.raw.items() if name not in self._names and value is not None]

    def integer(self, name: str, default: Default, *, at_least: int = 1) -> int | Default:
        """An integer from `at_least` to MAX_INTEGER."""
        value = self._value(name)
        if value is None:
            return default
        if not _is_integer(value) or not at_least <= value <= MAX_INTEGER:
            self.refuse(name, f"it must be an integer from {at_least} to {MAX_INTEGER}")
        return int(value)

    def required_integer(self, name: str, *, at_least: int = 1) -> int:
        """One that has no default."""
        self.require(name)
        return self.integer(name, at_least, at_least=at_least)

    def number(
        self,
        name: str,
        default: Default,
        *,
        at_least: int | float | None = None,
        above: int | float | None = None,
    ) -> float | Default:
        """A finite number."""
        value = self._value(name)
        if value is None:
            return default
        number = _as_float(value)
        is_within = number is not None and (at_least is None or number >= at_least)
        if number is None or not is_within or (above is not None and number <= above):
            bound = (
                f" from {at_least}"
                if at_least is not None
                else f" above {above}"
                if above is not None
                else ""
            )
            self.refuse(name, f"it must be a finite number{bound}")
        return number

    def required_number(self, name: str, *, above: int | float) -> float:
        """One that has no default."""
        self.require(name)
        return self.number(name, above, above=above)

    def required_numbers(self, name: str, *, length: int, above: int | float) -> tuple[float, ...]:
        """A list of `length` finite numbers, which has no default."""
        self.require(name)
        value = self._value(name)
        numbers = [_as_float(x) for x in value] if _is_list(value) else []
        found = tuple(x for x in numbers if x is not None and x > above)
        if len(numbers) != length or len(found) != length:
            self.refuse(name, f"it must be a list of {length} finite numbers above {above}")
        return found

    def switch(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, "it must be true or false")
        return value

    def text(self, name: str, default: Default) -> str | Default:
        """A string."""
        value = self._value(name)
        if value is None:
            return default
        if not isinstance(value, str):
            self.refuse(name, "it must be a string")
        return value

    def integers(self, name: str, *, at_least: int, at_most: int) -> tuple[int, ...] | None:
        """A list of integers; None where there is none."""
        value = self._value(name)
        if value is None:
            return None
        if not _is_list(value) or not all(_is_integer(x) and at_least <= x <= at_most for x in value):
            self.refuse(name, f"it must be a list of integers from {at_least} to {at_most}")
        return tuple(int(x) for x in value)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings; None where there is none."""
        value = self._value(name)
        if value is None:
            return None
        if not _is_list(value) or not all(isinstance(x, str) for x in value):
            self.refuse(name, "it must be a list of strings")
        return tuple(value)

    def object(self, name: str) -> "Entries | None":
        """The entries of an object; None where there is none, or an empty one."""
        value = self._value(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            self.refuse(name, "it must be an object")
        return Entries(value, f"{name} of {self.name}") if value else None

    def require(self, name: str) -> None:
        """Refuses a file in which the entry is absent or null."""
        if not self.has(name):
            raise UnsupportedModelError(f"{self.name} has no {name!r}, {NEEDED}")

    def refuse(self, name: str, rule: str) -> NoReturn:
        """Raises the error of an entry that breaks a rule."""
        raise UnsupportedModelError(
            f"{self.name} has {name} {shown(self.raw.get(name))}; {rule}: correct it or fetch the file again"
        )

    def _value(self, name: str) -> Any:
        self._names.add(name)
        return self.raw.get(name)


def shown(value: Any, length: int = 100) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _as_float(value: Any) -> float | None:
    """None for what is no finite number."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
