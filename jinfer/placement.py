"""The devices of an engine, and the layout of arrays on them.

Nothing else in jinfer asks JAX for devices or makes a sharding, so that a mesh of several devices begins and
ends here. Today there is one device, and every array is whole on it.
"""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from jinfer.compilation.assembler import with_assembler


def call_jitted(function: Callable[..., Any], *arguments: Any, static: tuple[Hashable, ...] = ()) -> Any:
    """Calls a jitted function, whose last arguments are static."""
    return with_assembler(lambda: function(*arguments, *static))


@dataclass(frozen=True)
class Placement:
    """The devices of one engine. `device` represents all of them: its kind and its memory size are those of
    each. `call` calls a jitted function, as `call_jitted` does; an engine's own looks for the executable on
    disk."""

    device: jax.Device
    call: Callable[..., Any] = call_jitted

    def sharding(self, axes: Sequence[str] = ()) -> Sharding:
        """The layout of an array with these logical axes, which are those of ParamSpec; without any, of a
        replicated array. On one device both are the same."""
        return SingleDeviceSharding(self.device)

    def placed(self, abstract: Any) -> Any:
        """The shapes of a pytree, each with the layout of a replicated array."""
        sharding = self.sharding()
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)

    def zeros(self, abstract: Any) -> Any:
        """Arrays of zeros in the shapes of a pytree, each made where a replicated array belongs."""
        make = _make_zeros(self.sharding())
        return jax.tree.map(lambda x: self.call(make, static=(x.shape, x.dtype)), abstract)

    def put(self, array: np.ndarray) -> jax.Array:
        """Starts a copy of an array of the host, replicated."""
        return jax.device_put(array, self.sharding())

    def pinned(self, num_bytes: int) -> jax.Array:
        """New memory of the host that the device copies by itself, as uint8 [num_bytes]."""
        sharding = SingleDeviceSharding(self.device, memory_kind="pinned_host")
        return jax.device_put(np.zeros(num_bytes, np.uint8), sharding).block_until_ready()

    def put_staged(self, source: np.ndarray | jax.Array) -> jax.Array:
        """Starts a copy of host memory, pinned or not, to the memory of the device."""
        kind = self.device.default_memory().kind
        return jax.device_put(source, SingleDeviceSharding(self.device, memory_kind=kind))

    def has(self, array: jax.Array) -> bool:
        """True if the engine can use the array where it is."""
        return self.device in array.devices()


@functools.cache
def _make_zeros(sharding: Sharding) -> Callable[..., jax.Array]:
    return jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=sharding)


def default_placement() -> Placement:
    """The first device that JAX sees."""
    return Placement(jax.devices()[0])
