"""Blocks of the RMSNorm kernels: tuned numbers where there are any, else the heuristic of all that hold whole
rows."""

from pallas_kernels.core.rowwise.blocks import RowBlocks, blocks_key, candidate_blocks, heuristic_blocks
from pallas_kernels.core.tuned import tuned_blocks

rms_norm_key = add_rms_norm_key = blocks_key


def rms_norm_blocks(num_rows: int, features: int, itemsize: int) -> RowBlocks:
    tuned = tuned_blocks("rms_norm", "rms_norm", rms_norm_key(num_rows, features, itemsize), RowBlocks)
    return tuned or heuristic_blocks(num_rows, features, itemsize)


def rms_norm_candidates(num_rows: int, features: int, itemsize: int) -> list[RowBlocks]:
    """The candidates of a tuning sweep."""
    return candidate_blocks(rms_norm_blocks(num_rows, features, itemsize), features)


def add_rms_norm_blocks(num_rows: int, features: int, itemsize: int) -> RowBlocks:
    tuned = tuned_blocks(
        "rms_norm", "add_rms_norm", add_rms_norm_key(num_rows, features, itemsize), RowBlocks
    )
    return tuned or heuristic_blocks(num_rows, features, itemsize, num_inputs=2)


def add_rms_norm_candidates(num_rows: int, features: int, itemsize: int) -> list[RowBlocks]:
    """The candidates of a tuning sweep."""
    return candidate_blocks(add_rms_norm_blocks(num_rows, features, itemsize), features)
