"""jax's own kernels, jax.experimental.pallas.ops.gpu: JAX deprecated them, and newer versions have none."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def jax_kernel(name: str) -> Callable[..., Any] | None:
    """The function of jax's module of that name; None where this version of jax lacks it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module = importlib.import_module(f"jax.experimental.pallas.ops.gpu.{name}")
        except ImportError:
            return None
    return getattr(module, name)
