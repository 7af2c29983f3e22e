"""Some of many cases: of the blocks that a sweep may choose, which compile for seconds on a GPU, and of pairs
of parameters, which compile for a large part of a second on a CPU."""

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

T = TypeVar("T")


def every_nth(candidates: Sequence[T], n: int, rng: np.random.Generator) -> Sequence[T]:
    """Every nth candidate, from one of the first n on: others in every run, so that runs see all of them."""
    return candidates[int(rng.integers(min(n, len(candidates)))) :: n]


def diagonal_pairs(first: Sequence[Any], second: Sequence[Any]) -> list:
    """Every pair on a GPU; elsewhere some, in which each value of both occurs. `second` is the shorter one or
    as long."""
    return [
        pytest.param(a, b, marks=() if i % len(second) == j else pytest.mark.gpu)
        for (i, a), (j, b) in itertools.product(enumerate(first), enumerate(second))
    ]
