"""The size of a tile that fits into shared memory."""

from pallas_kernels.core.triton_call import MIN_DOT_SIZE

SHARED_MEMORY_BYTES = 160 * 1024  # of the 227 KB a program may have, with room for Triton's own staging


def fitting_tile(tile: int, head_dim: int, itemsize: int, *, num_stages: int) -> int:
    """Halves `tile` until the keys and values in flight fit into shared memory."""
    while tile > MIN_DOT_SIZE and 2 * num_stages * tile * head_dim * itemsize > SHARED_MEMORY_BYTES:
        tile //= 2
    return tile
