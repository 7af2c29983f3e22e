"""The words of decode batches that are on the device already."""

from typing import NamedTuple

import jax
import numpy as np

from jinfer.batching.batch import Batch
from jinfer.batching.buckets import StepShape
from jinfer.placement import Placement


class Sent(NamedTuple):
    """Words, on the host and on the device."""

    words: np.ndarray
    on_device: jax.Array


class SentWords:
    """What a step takes for the words of its batch: an array on the device, where they are those of before.

    While nobody joins, leaves or begins a page, the words of decode steps are equal. Sent once and kept, they need no
    transfer, and XLA finds them where its CUDA graph of the step expects them, so that it has nothing to write anew
    there. One array of each shape is kept; a step whose words differ from it leaves it, as a page begun does, after
    which they are the same again.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._kept: dict[StepShape, Sent] = {}
        self._newest: dict[StepShape, np.ndarray] = {}

    def __call__(self, batch: Batch) -> np.ndarray | jax.Array:
        """The words of the batch, on the device from the second time on that they are the same."""
        if not batch.shape.is_decode:
            return batch.words
        kept = self._kept.get(batch.shape)
        if kept is not None and np.array_equal(kept.words, batch.words):
            return kept.on_device
        newest = self._newest.get(batch.shape)
        self._newest[batch.shape] = batch.words
        if newest is None or not np.array_equal(newest, batch.words):
            return batch.words
        on_device = self._placement.put(batch.words)
        self._kept[batch.shape] = Sent(batch.words, on_device)
        return on_device

    def clear(self) -> None:
        """Gives back the memory of what is kept, once no step runs any more."""
        for kept in self._kept.values():
            kept.on_device.delete()
        self._kept.clear()
