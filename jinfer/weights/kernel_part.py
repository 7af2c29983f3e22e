"""The arrays of a quantized kernel: their names, shapes and dtypes, and what lies in them without a
checkpoint."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from pallas_kernels.core.weights import Activations

VALUES, PACKED, SCALES, ZEROS, PACKED_ZEROS, INPUT_SCALE, PERMUTATION = (
    *("values", "packed", "scales", "zeros", "packed_zeros", "input_scale", "permutation"),
)
"""The fields of the types, which are the names of their arrays."""
DUMMY_SCALE = 0.02  # the standard deviation that random codes times their scale have
DEVIATIONS = {"int8": 73.9, "float8_e4m3fn": 100.0, "uint16": 4.61}
"""The standard deviation of random codes, of a uint16 for each of its four."""
DUMMY_POWER = 120.0  # the byte of 2 ** -7: random codes of e2m1 have a standard deviation of 2.93


@dataclass(frozen=True)
class KernelPart:
    """An array of a kernel [in, out]. `out_axis` is the axis of its outputs, None where all have one number
    in common; `init` the first value where there is no checkpoint."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    out_axis: int | None
    init: Literal["zeros", "ones", "codes"] | float

    def axes(self, in_axis: str, out_axis: str) -> tuple[str, ...]:
        """The logical axis of each dimension, of a kernel with these two."""
        return tuple(out_axis if axis == self.out_axis else in_axis for axis in range(len(self.shape)))


def num_groups(size: int, group_size: int | None) -> int:
    """Groups of so many, of which the last may have fewer; one where there is no size."""
    return -(-size // (group_size or size))


def codes_part(shape: tuple[int, int], dtype: str) -> KernelPart:
    """Codes [out, ...]."""
    return KernelPart(shape, jnp.dtype(dtype), 0, "codes")


def scales_part(shape: tuple[int, ...], out_axis: int, dtype: str, of_codes: str) -> KernelPart:
    """Scales of codes of a dtype: without a checkpoint such that weights have the deviation DUMMY_SCALE."""
    return KernelPart(shape, jnp.dtype(dtype), out_axis, DUMMY_SCALE / DEVIATIONS[of_codes])


def input_scale_part(activations: Activations) -> dict[str, KernelPart]:
    """The one scale of static activations, under its name."""
    return (
        {INPUT_SCALE: KernelPart((), jnp.dtype("float32"), None, "ones")} if activations == "static" else {}
    )


def permutation_part(num_in: int, is_permuted: bool) -> dict[str, KernelPart]:
    """The inputs in the order of the codes, under its name."""
    return {PERMUTATION: KernelPart((num_in,), jnp.dtype("int32"), None, "zeros")} if is_permuted else {}
