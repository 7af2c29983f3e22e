"""Paged attention in Pallas on Triton, a file per function."""

from pallas_kernels.paged_attention.triton.append import append_and_decode
from pallas_kernels.paged_attention.triton.decode import decode
from pallas_kernels.paged_attention.triton.extend import extend
from pallas_kernels.paged_attention.triton.mixed import extend_mixed

__all__ = ["append_and_decode", "decode", "extend", "extend_mixed"]
