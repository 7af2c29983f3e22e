"""Arguments that several kinds of `jinfer bench` have, and numbers that argparse refuses where they make no
sense."""

import argparse
import math
from collections.abc import Callable
from typing import Any, Protocol

DEFAULT_OUTPUT_LEN = 128


class Adder(Protocol):
    """A parser, or a group of its arguments."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action: ...


def add_workloads(to: Adder, forms: str) -> None:
    """WORKLOAD ..., each of which is measured in turn."""
    to.add_argument("workloads", nargs="+", metavar="WORKLOAD", help=forms)


def add_output_len(to: Adder, about: str) -> None:
    """--output-len."""
    to.add_argument(
        "--output-len",
        type=positive(int),
        default=DEFAULT_OUTPUT_LEN,
        metavar="N",
        help=f"{about}; default {DEFAULT_OUTPUT_LEN}",
    )


def add_seed(to: Adder, about: str) -> None:
    """--seed."""
    to.add_argument("--seed", type=int, default=0, help=f"of {about}; default 0")


def add_trace(to: Adder, workload: str) -> None:
    """--trace, which a workload replays."""
    columns = "TIMESTAMP, ContextTokens, GeneratedTokens"
    to.add_argument("--trace", metavar="FILE", help=f"the CSV with {columns} that {workload} replays")


def add_speed(to: Adder, workload: str, default: float) -> None:
    """--speed, which divides the times of a trace."""
    about = f"of {workload}; default {default:g}"
    to.add_argument("--speed", type=positive(float), default=default, metavar="X", help=about)


def add_duration(to: Adder, about: str, default_s: float | None = None) -> None:
    """--duration, in seconds."""
    ending = "" if default_s is None else f"; default {default_s:g}"
    to.add_argument(
        "--duration", type=positive(float), default=default_s, metavar="S", help=f"{about}{ending}"
    )


def add_json(to: Adder, *, each: str, without: str) -> None:
    """--json, the file for lines of JSON."""
    about = f"a line of JSON for each {each}; - is stdout, without the {without}"
    to.add_argument("--json", metavar="FILE", help=about)


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
