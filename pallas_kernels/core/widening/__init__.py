"""Quantized weights in a kernel: how their bytes lie, and what makes floats of them in registers."""

from pallas_kernels.core.widening.kinds import Kind

__all__ = ["Kind"]
