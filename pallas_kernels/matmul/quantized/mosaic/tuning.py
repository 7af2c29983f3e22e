"""Tiles of the products in eight bits."""

from pallas_kernels.core.device import target_device
from pallas_kernels.core.triton_call import ceil_div
from pallas_kernels.matmul.quantized.mosaic.tiles import GemmBlocks

WIDE = GemmBlocks(tile_rows=64, tile_columns=256, num_stages=4)
TALL = GemmBlocks(tile_rows=128, tile_columns=128, num_stages=3)
SMALL = GemmBlocks(tile_rows=64, tile_columns=128, num_stages=5)
MANY_WAVES = 8  # of wide tiles: there tall ones were 2% faster on an H200


def gemm_blocks(num_rows: int, num_out: int, *, is_blocked: bool) -> GemmBlocks:
    """Small tiles where larger ones would leave multiprocessors idle, and for scales of blocks, whose sums
    are held twice."""
    num_multiprocessors = target_device().num_multiprocessors
    waves = ceil_div(num_rows, WIDE.rows) * num_out / WIDE.tile_columns / num_multiprocessors
    if is_blocked or num_out % WIDE.tile_columns or waves < 1:
        return SMALL
    return TALL if waves >= MANY_WAVES else WIDE
