"""The part of the choice of blocks that decode and extend share."""

import jax
from jaxtyping import Array

from pallas_kernels.core.kv_pages import KVPages


def attention_facts(q: Array | jax.ShapeDtypeStruct, kv_pages: KVPages, page_table: Array) -> dict[str, int]:
    """The fields that `DecodeCall` and `ExtendCall` have in common, of queries [..., num_heads, head_dim]."""
    num_heads, head_dim = q.shape[-2:]
    return {
        "num_heads": num_heads,
        "num_kv_heads": kv_pages.num_kv_heads,
        "head_dim": head_dim,
        "page_size": kv_pages.page_size,
        "max_positions": page_table.shape[1] * kv_pages.page_size,
        "itemsize": q.dtype.itemsize,
    }
