"""Calls of jitted functions whose executables are found on disk: the many small programs of a start."""

from collections.abc import Hashable
from typing import Any

import jax

from jinfer.compilation.program import Compilation


class KeptCalls:
    """Calls jitted functions, each compiled once for shapes and static arguments, or found in the directory
    of a compilation. XLA takes about a tenth of a second for even the smallest program of a GPU. Any thread
    may call."""

    def __init__(self, compilation: Compilation) -> None:
        self._compilation = compilation
        self._executables: dict[Hashable, jax.stages.Compiled] = {}

    def __call__(self, function: Any, *arguments: Any, static: tuple[Hashable, ...] = ()) -> Any:
        """The result of `function(*arguments, *static)`. Arguments are arrays of JAX or NumPy, and `static`
        is what the function names in static_argnums."""
        kinds = tuple((x.shape, x.dtype, getattr(x, "sharding", None)) for x in jax.tree.leaves(arguments))
        key = (function, static, kinds)
        if key not in self._executables:
            lowered = function.lower(*arguments, *static)
            self._executables[key] = self._compilation.compile_lowered(lowered)
        return self._executables[key](*arguments)
