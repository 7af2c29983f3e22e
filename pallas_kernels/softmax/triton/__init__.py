"""Softmax in Pallas on Triton."""

from jaxtyping import Array

from pallas_kernels.core.rowwise.blocks import RowBlocks
from pallas_kernels.softmax.triton import long_rows, whole_rows
from pallas_kernels.softmax.tuning import LongBlocks, softmax_blocks


def softmax(x: Array, *, interpret: bool, blocks: RowBlocks | LongBlocks | None = None) -> Array:
    """See `pallas_kernels.softmax.softmax`."""
    flat = x.reshape(-1, x.shape[-1])
    blocks = blocks or softmax_blocks(flat.shape[0], flat.shape[1], x.dtype.itemsize)
    if isinstance(blocks, LongBlocks):
        out = long_rows.softmax(flat, blocks, interpret=interpret)
    else:
        out = whole_rows.softmax(flat, blocks, interpret=interpret)
    return out.reshape(x.shape)
