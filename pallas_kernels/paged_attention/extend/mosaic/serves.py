"""The calls that the Mosaic kernel can serve, and those that it is chosen for. Imports nothing of Mosaic:
versions of JAX that lack what the kernel needs answer no."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.device import target_device
from pallas_kernels.core.kv_pages import AnyKVPages

TILE = 128  # positions
HEAD_DIMS = (64, 128)
MIN_PAGE_SIZE = 8  # rows of a core matrix
OLDEST_JAX = (0, 11)
# Each number of tokens has a module of its own, which takes seconds to compile, in the driver and with a lock
# held: a start has many shapes. And fewer tokens fill the machine less, where Triton's kernel can split the
# positions.
MIN_TOKENS = 4096


def why_not(q: Array, kv_pages: AnyKVPages, *, sinks: Array | None, options) -> str | None:
    """The part of a call of `extend` that the kernel leaves out; None where it serves it."""
    page_size, head_dim = kv_pages.page_size, kv_pages.head_dim
    if sinks is not None or options.sliding_window is not None or options.soft_cap is not None:
        return "attention sinks, sliding windows and soft caps are left out"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"queries and cache are {q.dtype}, and must be bfloat16 or float16"
    if head_dim not in HEAD_DIMS:
        return f"head_dim is {head_dim}, and must be one of {HEAD_DIMS}"
    if page_size % MIN_PAGE_SIZE or (TILE % page_size and page_size % TILE):
        rule = f"must have {MIN_PAGE_SIZE} or more that divide {TILE}, or n * {TILE}"
        return f"pages have {page_size} positions, and {rule}"
    if 2 * kv_pages.num_pages * page_size > jnp.iinfo(jnp.int32).max:
        return "the cache has more positions than int32 can count"
    if not target_device().is_hopper:
        return f"it is for Hopper (H100, H200), and the device is {target_device().kind!r}"
    if jax.__version_info__ < OLDEST_JAX:
        return f"jax is {jax.__version__}, and must be {'.'.join(map(str, OLDEST_JAX))} or newer"
    return None


def is_best_for(q: Array, kv_pages: AnyKVPages, *, sinks: Array | None, options) -> bool:
    """True where "auto" and "pallas" take it."""
    return q.shape[0] >= MIN_TOKENS and why_not(q, kv_pages, sinks=sinks, options=options) is None
