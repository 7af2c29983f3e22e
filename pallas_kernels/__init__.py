"""GPU kernels in Pallas on Triton, usable in any JAX program. One folder per operation; nothing here knows
jinfer."""

from pallas_kernels.core.selection import Implementation, UnsupportedError

__all__ = ["Implementation", "UnsupportedError"]
