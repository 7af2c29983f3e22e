"""Blocks of the layer normalization kernel: tuned numbers where there are any, else the heuristic of all that
hold whole rows, with twice the threads to hold weights and biases too."""

from pallas_kernels.core.rowwise.blocks import (
    THREAD_BYTES,
    RowBlocks,
    blocks_key,
    candidate_blocks,
    heuristic_blocks,
)
from pallas_kernels.core.tuned import tuned_blocks

layer_norm_key = blocks_key


def layer_norm_blocks(num_rows: int, features: int, itemsize: int) -> RowBlocks:
    tuned = tuned_blocks("layer_norm", "layer_norm", layer_norm_key(num_rows, features, itemsize), RowBlocks)
    return tuned or heuristic_blocks(num_rows, features, itemsize, thread_bytes=THREAD_BYTES // 2)


def layer_norm_candidates(num_rows: int, features: int, itemsize: int) -> list[RowBlocks]:
    """The candidates of a tuning sweep."""
    return candidate_blocks(layer_norm_blocks(num_rows, features, itemsize), features)
