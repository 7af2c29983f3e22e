"""Block sizes of latent attention's cache write."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

from pallas_kernels.core.device import THREADS_PER_WARP, target_device
from pallas_kernels.core.triton_call import ceil_div, next_power_of_two
from pallas_kernels.core.tuned import tuned_blocks, tuned_key

PROGRAMS_PER_MULTIPROCESSOR = 4  # at least, where there is little to do
MAX_TOKENS = 8
ELEMENTS_PER_THREAD = 8
MAX_WARPS = 8


@dataclass(frozen=True)
class LatentCacheWriteBlocks:
    """A program serves `tokens` tokens: their latent vectors and keys, or the queries of `heads` heads. Both
    are powers of two."""

    tokens: int
    heads: int
    num_warps: int


class LatentCacheWriteCall(NamedTuple):
    """The facts that the choice of blocks depends on."""

    num_tokens: int
    num_heads: int
    latent_dim: int
    rope_dim: int
    itemsize: int


def latent_cache_write_blocks(call: LatentCacheWriteCall) -> LatentCacheWriteBlocks:
    """Tuned numbers where there are any; else as many heads as have the work of a latent vector, and several
    tokens where programs enough are left."""
    key = latent_cache_write_key(call)
    found = tuned_blocks("latent_cache_write", "latent_cache_write", key, LatentCacheWriteBlocks)
    if found is not None:
        return found
    heads = min(
        max(1, next_power_of_two(call.latent_dim // call.rope_dim)), next_power_of_two(call.num_heads)
    )
    num_programs = call.num_tokens * (1 + ceil_div(call.num_heads, heads))
    wanted = target_device().num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR
    tokens = min(MAX_TOKENS, next_power_of_two(ceil_div(num_programs, wanted)))
    return LatentCacheWriteBlocks(tokens, heads, _num_warps(tokens, call))


def latent_cache_write_key(call: LatentCacheWriteCall) -> dict[str, int]:
    """A call's tuned entry; tokens count as the power of two that holds them."""
    return tuned_key(call, rounded=["num_tokens"])


def latent_cache_write_candidates(call: LatentCacheWriteCall) -> list[LatentCacheWriteBlocks]:
    """The candidates of a sweep: one to eight tokens of four to sixteen heads."""
    max_heads = next_power_of_two(call.num_heads)
    found = [
        LatentCacheWriteBlocks(tokens, min(heads, max_heads), warps)
        for tokens, heads in itertools.product((1, 2, 4, 8), (4, 8, 16))
        for warps in {max(1, _num_warps(tokens, call) // 2), _num_warps(tokens, call)}
    ]
    return list(dict.fromkeys(found))


def _num_warps(tokens: int, call: LatentCacheWriteCall) -> int:
    num_threads = tokens * next_power_of_two(call.latent_dim) // ELEMENTS_PER_THREAD
    return max(1, min(MAX_WARPS, num_threads // THREADS_PER_WARP))
