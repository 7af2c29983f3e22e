"""A few of the many blocks that a sweep may choose: each compiles for seconds on a GPU."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def every_nth(candidates: Sequence[T], n: int, rng: np.random.Generator) -> Sequence[T]:
    """Every nth candidate, from one of the first n on: others in every run, so that runs see all of them."""
    return candidates[int(rng.integers(min(n, len(candidates)))) :: n]
