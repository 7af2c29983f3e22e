"""The part of the choice of blocks that decode and extend share."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pallas_kernels.core.kv_pages import AnyKVPages


def attention_facts(
    q: Array | jax.ShapeDtypeStruct, kv_pages: AnyKVPages, page_table: Array
) -> dict[str, Any]:
    """The fields that `DecodeCall` and `ExtendCall` have in common, of queries [..., num_heads, head_dim]."""
    num_heads, head_dim = q.shape[-2:]
    return {
        "num_heads": num_heads,
        "num_kv_heads": kv_pages.num_kv_heads,
        "head_dim": head_dim,
        "page_size": kv_pages.page_size,
        "max_positions": page_table.shape[1] * kv_pages.page_size,
        "itemsize": q.dtype.itemsize,
        "quantized": kv_pages.quantized,
    }


def values_itemsize(itemsize: int, quantized: str | None) -> int:
    """Bytes of an element of the cache, for queries of `itemsize` bytes."""
    return itemsize if quantized is None else jnp.dtype(quantized).itemsize
