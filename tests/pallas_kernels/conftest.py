"""Fresh random numbers on every run, with the seed in the report of a failure."""

import secrets

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    seed = secrets.randbits(32)
    print(f"np.random.default_rng({seed})")
    return np.random.default_rng(seed)
