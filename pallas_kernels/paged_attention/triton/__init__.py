"""Paged attention in Pallas on Triton, a file per function."""

from pallas_kernels.paged_attention.triton.decode import decode
from pallas_kernels.paged_attention.triton.extend import extend

__all__ = ["decode", "extend"]
