"""Blocks of the layer normalization kernel: those of RMSNorm, with twice the threads to hold weights and biases too."""

from pallas_kernels.rms_norm.tuning import THREAD_BYTES, Blocks, candidate_blocks, heuristic_blocks
from pallas_kernels.triton_call import next_power_of_two
from pallas_kernels.tuned import tuned_blocks


def layer_norm_key(num_rows: int, features: int, itemsize: int) -> dict[str, int | str]:
    """What the choice depends on."""
    return {"rows": next_power_of_two(num_rows), "features": features, "itemsize": itemsize}


def layer_norm_blocks(num_rows: int, features: int, itemsize: int) -> Blocks:
    tuned = tuned_blocks("layer_norm", "layer_norm", layer_norm_key(num_rows, features, itemsize), Blocks)
    return tuned or heuristic_blocks(num_rows, features, itemsize, thread_bytes=THREAD_BYTES // 2)


def layer_norm_candidates(num_rows: int, features: int, itemsize: int) -> list[Blocks]:
    """What a tuning sweep tries."""
    return candidate_blocks(layer_norm_blocks(num_rows, features, itemsize), features)
