"""Quantized weights, as products take them where they take an array.

Each is a pytree that stands for a matrix [in, out], or for a stack [layers, in, out] of them, and knows how
to be made of one (`of`) and how to become one again (`dequantized`). What a product does with its activations
belongs to the weight: see `Activations`.
"""

from jaxtyping import Array

from pallas_kernels.core.weights.activations import Activations
from pallas_kernels.core.weights.fp8 import BlockFp8Weight, Fp8Weight
from pallas_kernels.core.weights.int4 import Int4Weight
from pallas_kernels.core.weights.int8 import Int8Weight
from pallas_kernels.core.weights.mxfp4 import Mxfp4Weight

__all__ = [
    "Activations",
    "BlockFp8Weight",
    "Fp8Weight",
    "Int4Weight",
    "Int8Weight",
    "Mxfp4Weight",
    "QuantizedWeight",
    "Weight",
]

QuantizedWeight = Int8Weight | Fp8Weight | BlockFp8Weight | Int4Weight | Mxfp4Weight
Weight = Array | QuantizedWeight
