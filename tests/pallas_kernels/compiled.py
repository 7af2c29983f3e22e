"""One jitted function for each function and its options: calls of equal shapes share a trace and a program,
also across tests. Compiling an interpreted kernel takes a hundred times as long as running it."""

import functools
from collections.abc import Callable, Hashable

import jax


@functools.cache
def compiled(function: Callable, **options: Hashable) -> Callable:
    """`function` with these options, jitted."""
    return jax.jit(functools.partial(function, **options))
