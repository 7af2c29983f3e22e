"""The product in Pallas on Triton: a program reads the weights of some outputs, or of a split of their inputs, once."""

from pallas_kernels.linear.triton.launch import MAX_NORM_ROWS, MAX_ROWS, linear

__all__ = ["MAX_NORM_ROWS", "MAX_ROWS", "linear"]
