"""The grouped product in Pallas on Triton, and the kernel that finds its groups."""

from pallas_kernels.grouped_matmul.triton.grouping import group_rows
from pallas_kernels.grouped_matmul.triton.launch import grouped_matmul

__all__ = ["group_rows", "grouped_matmul"]
