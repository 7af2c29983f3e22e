"""Products of many rows in eight bits in Pallas on Mosaic GPU: on Hopper, at nearly twice the rate of
bfloat16."""

from pallas_kernels.matmul.quantized.mosaic.product import matmul, multiply
from pallas_kernels.matmul.quantized.mosaic.serves import why_not

__all__ = ["matmul", "multiply", "why_not"]
