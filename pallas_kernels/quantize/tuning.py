"""Blocks of the kernel that quantizes rows: tuned numbers where there are any, else the heuristic of all that
hold whole rows."""

from pallas_kernels.core.rowwise.blocks import RowBlocks, blocks_key, candidate_blocks, heuristic_blocks
from pallas_kernels.core.tuned import tuned_blocks

quantize_key = blocks_key


def quantize_blocks(num_rows: int, features: int, itemsize: int) -> RowBlocks:
    tuned = tuned_blocks("quantize", "quantize_rows", quantize_key(num_rows, features, itemsize), RowBlocks)
    return tuned or heuristic_blocks(num_rows, features, itemsize)


def quantize_candidates(num_rows: int, features: int, itemsize: int) -> list[RowBlocks]:
    """The candidates of a tuning sweep."""
    return candidate_blocks(quantize_blocks(num_rows, features, itemsize), features)
