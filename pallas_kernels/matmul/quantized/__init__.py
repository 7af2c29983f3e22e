"""Products with quantized weights, and which implementation serves which call."""

from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.selection import Available
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.quantized import mosaic, triton

__all__ = ["best", "mosaic", "triton"]


def best(x: Array, w: QuantizedWeight, fusion: Fusion, out_dtype: DTypeLike) -> Available:
    """The implementation for a call on a GPU: few rows are bound by the weights' bytes, which Triton's kernel
    reads once, and many by the tensor cores."""
    del fusion
    if triton.why_not(x, w) is None:
        return "triton"
    return "mosaic" if mosaic.why_not(w, out_dtype) is None else "xla"
