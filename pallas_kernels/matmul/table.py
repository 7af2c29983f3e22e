"""The implementations that serve each type of weights."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Array

from pallas_kernels.core.selection import Available
from pallas_kernels.core.weights import (
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    Weight,
)
from pallas_kernels.matmul import quantized, reference, triton, xla
from pallas_kernels.matmul.choice import best_for_arrays

Product = Callable[..., Array]


class Implementations(NamedTuple):
    """The products with one type of weights, and the choice among them on a GPU. `mosaic` is None where there
    is no such kernel."""

    best: Callable[..., Available]
    triton: Product
    mosaic: Product | None = None
    xla: Product = xla.matmul
    reference: Product = reference.matmul

    @property
    def available(self) -> tuple[Available, ...]:
        """The names that a caller may choose."""
        kernels: tuple[Available, ...] = ("triton",) if self.mosaic is None else ("triton", "mosaic")
        return "pallas", *kernels, "xla", "reference"


OF_ARRAYS = Implementations(best_for_arrays, triton.matmul)
OF_QUANTIZED = Implementations(quantized.best, quantized.triton.matmul, quantized.mosaic.matmul)
BY_TYPE: Mapping[type, Implementations] = {
    Int8Weight: OF_QUANTIZED,
    Fp8Weight: OF_QUANTIZED,
    BlockFp8Weight: OF_QUANTIZED,
    Int4Weight: OF_QUANTIZED,
    Mxfp4Weight: OF_QUANTIZED,
}


def implementations_of(w: Weight) -> Implementations:
    return BY_TYPE.get(type(w), OF_ARRAYS)
