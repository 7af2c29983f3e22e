"""Inputs of decode steps that are on the device already."""

from typing import NamedTuple

import jax
import numpy as np

from jinfer.batching.batch import Batch
from jinfer.batching.buckets import StepShape
from jinfer.placement import Placement


class CachedInput(NamedTuple):
    """A packed batch, on the host and on the device."""

    packed: np.ndarray
    on_device: jax.Array


class InputCache:
    """Gives a step its packed batch, as an array on the device where that is there already.

    While no row joins, leaves or begins a page, the batches of decode steps are equal. One that is sent once
    and kept needs no transfer, and XLA finds it where its CUDA graph of the step expects it, so that no node
    of the graph has to be updated. One array per shape is kept. A batch that differs once, as when a row gets
    a page, does not replace it, since the next is usually equal again.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._cached: dict[StepShape, CachedInput] = {}
        self._newest: dict[StepShape, np.ndarray] = {}

    def __call__(self, batch: Batch) -> np.ndarray | jax.Array:
        """The packed batch, on the device from the second equal one on."""
        if not batch.shape.is_decode:
            return batch.packed
        cached = self._cached.get(batch.shape)
        if cached is not None and np.array_equal(cached.packed, batch.packed):
            return cached.on_device
        newest = self._newest.get(batch.shape)
        self._newest[batch.shape] = batch.packed
        if newest is None or not np.array_equal(newest, batch.packed):
            return batch.packed
        on_device = self._placement.put(batch.packed)
        self._cached[batch.shape] = CachedInput(batch.packed, on_device)
        return on_device

    def clear(self) -> None:
        """Frees the arrays on the device, once no step runs any more."""
        for cached in self._cached.values():
            cached.on_device.delete()
        self._cached.clear()
