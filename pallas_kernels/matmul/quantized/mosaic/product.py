"""The product of many rows with all that is around it: rows are quantized in one pass, with the norm before
them; what comes after is XLA's."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.weights import BlockFp8Weight, Int8Weight, QuantizedWeight
from pallas_kernels.core.weights.four_bits import FourBits
from pallas_kernels.core.weights.fp8 import BLOCK_SIZE
from pallas_kernels.matmul.contract import Fusion, ended, of_layer
from pallas_kernels.matmul.quantized.mosaic.serves import why_not
from pallas_kernels.quantize import QuantizedRows, quantize_rows


def matmul(
    x: Array,
    w: QuantizedWeight,
    *,
    layer: int | Array | None,
    transposed: bool,
    fusion: Fusion,
    out_dtype: DTypeLike,
) -> Array:
    """See `pallas_kernels.matmul.matmul`. Raises UnsupportedError for what `why_not` names."""
    del transposed  # weights know their layout
    reason = why_not(w, out_dtype)
    if reason is not None:
        raise UnsupportedError(f'the Mosaic kernel does not serve this call: {reason}; use "xla"')
    return ended(multiply(rows_of(x, w, layer, fusion.norm), w, layer=layer), fusion, layer)


def multiply(
    rows: QuantizedRows, w: QuantizedWeight, *, layer: int | Array | None = None, **blocks: Any
) -> Array:
    """rows @ w[layer] in bfloat16. `blocks` are fields of GemmBlocks, and the kernel's own choice without
    any."""
    # Here, where JAX is known to have what they need.
    from pallas_kernels.matmul.quantized.mosaic import gemm, tiles

    assert not isinstance(w, FourBits)
    return gemm.multiply(rows, w, layer=layer, blocks=tiles.GemmBlocks(**blocks) if blocks else None)


def rows_of(
    x: Array, w: QuantizedWeight, layer: int | Array | None, norm: tuple[Array, float] | None
) -> QuantizedRows:
    """norm(x) in eight bits, as w says."""
    is_stack = norm is not None and norm[0].ndim == 2
    input_scale = getattr(w, "input_scale", None)
    return quantize_rows(
        x,
        jnp.int8 if isinstance(w, Int8Weight) else jnp.float8_e4m3fn,
        group_size=BLOCK_SIZE if isinstance(w, BlockFp8Weight) else None,
        scale=None if input_scale is None else of_layer(input_scale, layer, ndim=0),
        norm=norm,
        layer=layer if is_stack else None,
        implementation="triton",
    )
