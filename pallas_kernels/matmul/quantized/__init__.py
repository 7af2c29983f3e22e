"""Products with quantized weights, and which implementation serves which call."""

from jaxtyping import Array

from pallas_kernels.core.selection import Available
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.quantized import triton

__all__ = ["best", "triton"]


def best(x: Array, w: QuantizedWeight, fusion: Fusion) -> Available:
    """The implementation for a call on a GPU."""
    return "triton" if triton.why_not(x, w, fusion) is None else "xla"
