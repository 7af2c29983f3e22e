"""Named int32 fields in one flat vector, so that a step's metadata crosses to the device in one transfer."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Int32

Layout = Mapping[str, tuple[int, ...]]
"""The shape of each field, in the order in which they lie in the vector."""


def size_of(layout: Layout) -> int:
    """Elements in the vector."""
    return sum(math.prod(shape) for shape in layout.values())


def pack(layout: Layout, fields: Mapping[str, np.ndarray]) -> np.ndarray:
    """The fields as one int32 vector. Every field of the layout must be given in its shape."""
    parts = []
    for name, shape in layout.items():
        assert fields[name].shape == shape, (name, fields[name].shape, shape)
        assert fields[name].dtype == np.int32, (name, fields[name].dtype)
        parts.append(fields[name].ravel())
    return np.concatenate(parts)


def unpack(layout: Layout, packed: Int32[Array, " packed"]) -> dict[str, Array]:
    """The fields of a packed vector, by static slices: free once compiled."""
    fields = {}
    begin = 0
    for name, shape in layout.items():
        end = begin + math.prod(shape)
        fields[name] = packed[begin:end].reshape(shape)
        begin = end
    return fields
