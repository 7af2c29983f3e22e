"""Patches that undo choices for which an engine has no option, in this process alone. A patch raises where
the code it changes no longer exists."""

from typing import Any

from jinfer.batching import buckets
from jinfer.scheduling import step_plan

DENSE = (1.125, 1.25, 1.375, 1.5, 1.75, 2.0)


def sparse_buckets() -> None:
    """Makes row buckets of 8, 16, 32, ... rows."""
    _replace(buckets, "STEPS_PER_OCTAVE", (2.0,))


def dense_buckets() -> None:
    """Makes row buckets of 8, 9, 10, 11, 12, 14, 16, 18, ... rows."""
    _replace(buckets, "STEPS_PER_OCTAVE", DENSE)


def order_of_arrival() -> None:
    """Keeps decode rows in order of arrival: with all lengths equal, sorting does not move them."""
    _replace(step_plan, "BY_LENGTH", lambda sequence: 0)


def _replace(module: Any, name: str, value: Any) -> None:
    if not hasattr(module, name):
        raise AttributeError(f"{module.__name__} has no {name} any more: this variant has to be written anew")
    setattr(module, name, value)
