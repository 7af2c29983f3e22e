"""Linear layers of published models, and the types of their weights: what tests and benchmarks run over."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Array

from pallas_kernels.core.weights import (
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    QuantizedWeight,
)


@dataclass(frozen=True)
class MatmulShape:
    """`transposed` is the [out, in] layout of an embedding, and of the head that it may serve as."""

    num_in: int
    num_out: int
    transposed: bool = False


SHAPES = {
    "qwen3-0.6b-qkv": MatmulShape(1024, 4096),
    "qwen3-0.6b-o": MatmulShape(2048, 1024),
    "qwen3-0.6b-gate-up": MatmulShape(1024, 6144),
    "qwen3-0.6b-down": MatmulShape(3072, 1024),
    "qwen3-0.6b-head": MatmulShape(1024, 151936, transposed=True),
    "qwen3-8b-qkv": MatmulShape(4096, 6144),
    "qwen3-8b-o": MatmulShape(4096, 4096),
    "qwen3-8b-gate-up": MatmulShape(4096, 24576),
    "qwen3-8b-down": MatmulShape(12288, 4096),
    "qwen3-8b-head": MatmulShape(4096, 151936, transposed=True),
    "qwen3-32b-down": MatmulShape(25600, 5120),
    "gpt-oss-20b-qkv": MatmulShape(2880, 5120),
}
QUANTIZED_WEIGHTS: Mapping[str, Callable[[Array], QuantizedWeight]] = {
    "int4": Int4Weight.of,
    "int4-zeros": functools.partial(Int4Weight.of, symmetric=False),
    "mxfp4": Mxfp4Weight.of,
    "int8": Int8Weight.of,
    "int8-int8": functools.partial(Int8Weight.of, activations="dynamic"),
    "fp8": Fp8Weight.of,
    "fp8-fp8": functools.partial(Fp8Weight.of, activations="dynamic"),
    "block-fp8-fp8": functools.partial(BlockFp8Weight.of, activations="dynamic"),
}
"""Quantized weights of a matrix [in, out]. A second part of a name is of the activations."""
