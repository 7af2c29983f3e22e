"""Block sizes of the RMSNorm kernel."""

from dataclasses import dataclass

from pallas_kernels.triton_call import next_power_of_two

BLOCK_ELEMENTS = 4096  # a program's share: 32 elements a thread in four warps
MAX_WARPS = 8


@dataclass(frozen=True)
class Blocks:
    """A program normalizes `rows` rows at once."""

    rows: int
    num_warps: int


def blocks(num_rows: int, features: int) -> Blocks:
    """Several short rows a program, or one long one with more warps."""
    padded = next_power_of_two(features)
    rows = max(1, min(BLOCK_ELEMENTS // padded, next_power_of_two(num_rows)))
    return Blocks(rows=rows, num_warps=max(1, min(MAX_WARPS, rows * padded // 1024)))
