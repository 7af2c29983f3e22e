"""The product in Pallas on Triton: a program reads the weights of some outputs, or of a split of their
inputs, once."""

from pallas_kernels.matmul.triton.launch import MAX_NORM_ROWS, MAX_ROWS, matmul

__all__ = ["MAX_NORM_ROWS", "MAX_ROWS", "matmul"]
