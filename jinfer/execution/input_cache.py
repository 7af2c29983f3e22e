"""Inputs of steps that are equal from step to step, sent to the device once."""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import numpy as np

from jinfer.placement import Placement


class CachedInput(NamedTuple):
    """An input on the host and on the device."""

    on_host: np.ndarray
    on_device: jax.Array


class InputCache:
    """Gives a step an input as an array on the device where that is there already.

    One that is sent once and kept needs no transfer, and XLA finds it where its CUDA graph of the step
    expects it, so that no node of the graph has to be updated. One array per key is kept. An input that
    differs once, as when a row gets a page, does not replace it, since the next is usually equal again.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._cached: dict[Hashable, CachedInput] = {}
        self._newest: dict[Hashable, np.ndarray] = {}

    def __call__(self, key: Hashable, array: np.ndarray) -> np.ndarray | jax.Array:
        """The array, on the device from the second equal one of its key on. It must not be written to any
        more."""
        cached = self._cached.get(key)
        if cached is not None and np.array_equal(cached.on_host, array):
            return cached.on_device
        newest = self._newest.get(key)
        self._newest[key] = array
        if newest is None or not np.array_equal(newest, array):
            return array
        on_device = self._placement.put(array)
        self._cached[key] = CachedInput(array, on_device)
        return on_device

    def clear(self) -> None:
        """Frees the arrays on the device, once no step runs any more."""
        for cached in self._cached.values():
            cached.on_device.delete()
        self._cached.clear()
