"""Options as fields of frozen dataclasses: their texts for the command line, and the checks that follow from
their types."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jinfer.errors import ConfigError, shown

CompilerValue = str | bool
"""The value of an option of XLA's compiler; a number is given as a string."""
LARGEST_INTEGER = 2**31 - 1  # pages, positions and rows are int32 on the device


def option(
    default: Any, *, help: str, minimum: int = 1, flag: str | None = None, metavar: str | None = None
) -> Any:
    """A field that is an option. `help` is its line on the command line, and `minimum` the least of an
    integer.

    `flag` names it on the command line, where that is not its own name with dashes.
    """
    metadata = {"help": help, "minimum": minimum, "flag": flag, "metavar": metavar}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """An option by its name: its form on the command line, and its check.

    `words` are the values that the type names, as in Literal["auto"], and `value_type` is the type of other
    values: None if there are none. `is_optional` allows None, which leaves the choice to the engine.
    """

    name: str
    default: Any
    help: str
    flag: str
    metavar: str | None
    minimum: int
    words: tuple[str, ...]
    value_type: Any
    is_optional: bool

    @classmethod
    def of(cls, field: dataclasses.Field) -> "Option":
        """The option that a field made by `option` is."""
        types = get_args(field.type) if get_origin(field.type) in (Union, UnionType) else (field.type,)
        others = [each for each in types if each is not NoneType and get_origin(each) is not Literal]
        return cls(
            name=field.name,
            default=field.default
            if field.default_factory is dataclasses.MISSING
            else field.default_factory(),
            help=field.metadata["help"],
            flag=field.metadata["flag"] or f"--{field.name.replace('_', '-')}",
            metavar=field.metadata["metavar"],
            minimum=field.metadata["minimum"],
            words=tuple(word for each in types if get_origin(each) is Literal for word in get_args(each)),
            value_type=others[0] if others else None,
            is_optional=NoneType in types,
        )

    def check(self, value: Any) -> None:
        """Raises ConfigError for a value that is none of the choices, or no integer in the range. Other types
        are the business of the class that has the field."""
        if self.value_type is int:
            self._check_integer(value)
        elif self.value_type is bool:
            _check_choice(self.name, value, (True, False))
        elif self.value_type is None:
            _check_choice(self.name, value, (*self.words, *[None] * self.is_optional))

    def _check_integer(self, value: Any) -> None:
        if (value is None and self.is_optional) or (isinstance(value, str) and value in self.words):
            return
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not self.minimum <= value <= LARGEST_INTEGER
        ):
            words = "".join(f" or {word!r}" for word in self.words)
            rule = f"must be an integer from {self.minimum} to {LARGEST_INTEGER}{words}"
            raise ConfigError(f"{self.name}={shown(value)} {rule}")


def options_of(part: Any) -> Iterator[Option]:
    """The options among the fields of a dataclass, or of one of its objects."""
    return (Option.of(field) for field in dataclasses.fields(part) if "flag" in field.metadata)


def check_options(part: Any) -> None:
    """Raises ConfigError unless every option of an object has a value that its type allows."""
    for each in options_of(part):
        each.check(getattr(part, each.name))


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if not isinstance(value, str | bool | None) or value not in choices:
        raise ConfigError(f"{name}={shown(value)} must be one of {', '.join(map(repr, choices))}")
