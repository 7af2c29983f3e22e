"""Products of few rows with quantized weights in Pallas on Triton: a program reads the bytes of some outputs,
or of a split of their inputs, once, and makes floats of them in registers."""

from pallas_kernels.matmul.quantized.triton.launch import matmul, why_not

__all__ = ["matmul", "why_not"]
