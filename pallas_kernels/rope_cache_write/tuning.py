"""Block sizes of the fused norm, rotation and cache write."""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array

from pallas_kernels.core.device import THREADS_PER_WARP, target_device
from pallas_kernels.core.kv_pages import AnyKVPages
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key

PROGRAM_BYTES = 8192  # what a program reads where there is much to do
PROGRAMS_PER_MULTIPROCESSOR = 4  # at least, where there is little
# A load of 16 of either half, and few enough registers for 1,500 threads on a multiprocessor.
BYTES_PER_THREAD = 32
MAX_WARPS = 8


@dataclass(frozen=True)
class RopeCacheWriteBlocks:
    """A program serves `rows` (token, head) pairs: at most `heads` heads of as many tokens as that leaves
    room for.

    Both are powers of two, and heads <= rows.
    """

    rows: int
    heads: int
    num_warps: int


class RopeCacheWriteCall(NamedTuple):
    """The facts that the choice of blocks depends on."""

    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    itemsize: int
    quantized: str | None = None  # the dtype of a cache whose values have scales

    @classmethod
    def of(cls, heads: Array, kv_pages: AnyKVPages, cos: Array) -> "RopeCacheWriteCall":
        """The call with these arguments of `rope_cache_write`."""
        num_tokens, num_outputs, head_dim = heads.shape
        return cls(
            num_tokens=num_tokens,
            num_heads=num_outputs - 2 * kv_pages.num_kv_heads,
            num_kv_heads=kv_pages.num_kv_heads,
            head_dim=head_dim,
            rotary_dim=2 * cos.shape[1],
            itemsize=kv_pages.dtype.itemsize,
            quantized=kv_pages.quantized,
        )


def rope_cache_write_blocks(call: RopeCacheWriteCall) -> RopeCacheWriteBlocks:
    """Tuned numbers where there are any; else `PROGRAM_BYTES` a program, less where that would leave the GPU
    idle, and many heads of one token rather than few of many, since they share angles."""
    key = rope_cache_write_key(call)
    found = tuned_blocks("rope_cache_write", "rope_cache_write", key, RopeCacheWriteBlocks)
    if found is not None:
        return found
    num_programs = target_device().num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR
    num_token_heads = call.num_tokens * (call.num_heads + 2 * call.num_kv_heads)
    fair_share = next_power_of_two(ceil_div(num_token_heads, num_programs))
    rows = min(_rows_of(PROGRAM_BYTES, call), fair_share)
    return RopeCacheWriteBlocks(rows, heads=rows, num_warps=_num_warps(rows, call))


def rope_cache_write_key(call: RopeCacheWriteCall) -> dict[str, Any]:
    """A call's tuned entry; tokens count as the power of two that holds them."""
    return tuned_key(call, rounded=["num_tokens"])


def rope_cache_write_candidates(call: RopeCacheWriteCall) -> list[RopeCacheWriteBlocks]:
    """The candidates of a sweep: 256 bytes to 16 KB a program, 16 to 64 bytes a thread, many heads or many
    tokens."""
    candidates = []
    for program_bytes in (256, 512, 1024, 2048, 4096, 8192, 16384):
        rows = _rows_of(program_bytes, call)
        warps = _num_warps(rows, call)
        heads_tried = rows, max(1, rows // 4), min(rows, next_power_of_two(call.num_kv_heads))
        for heads, num_warps in itertools.product(heads_tried, (max(1, warps // 2), warps, 2 * warps)):
            candidates.append(RopeCacheWriteBlocks(rows, heads, num_warps))
    return list(dict.fromkeys(candidates))


def section_heads(num_heads: int, blocks: RopeCacheWriteBlocks) -> int:
    """The heads of a program where there are `num_heads` of a kind: `blocks.heads`, halved until at most a
    quarter of what the programs serve is padding (71 heads are 5 blocks of 16, not 2 of 64)."""
    heads = min(blocks.heads, next_power_of_two(num_heads))
    while 3 * ceil_div(num_heads, heads) * heads > 4 * num_heads:
        heads //= 2
    return heads


def _rows_of(program_bytes: int, call: RopeCacheWriteCall) -> int:
    return max(1, program_bytes // (next_power_of_two(call.head_dim) * call.itemsize))


def _num_warps(rows: int, call: RopeCacheWriteCall) -> int:
    num_threads = rows * next_power_of_two(call.head_dim) * call.itemsize // BYTES_PER_THREAD
    return max(1, min(MAX_WARPS, num_threads // THREADS_PER_WARP))
