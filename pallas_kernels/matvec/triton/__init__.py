"""The product in Pallas on Triton: a program reads the weights of some outputs, or of a split of their inputs, once."""

from pallas_kernels.matvec.triton.launch import MAX_BATCH, matvec

__all__ = ["MAX_BATCH", "matvec"]
