"""Paged attention in Pallas on Triton, a file per function."""

from pallas_kernels.paged_attention.triton.decode import decode
from pallas_kernels.paged_attention.triton.extend import extend
from pallas_kernels.paged_attention.triton.mixed import extend_mixed

__all__ = ["decode", "extend", "extend_mixed"]
