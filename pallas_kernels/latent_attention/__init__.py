"""Decode attention of multi-head latent attention (DeepSeek-AI, "DeepSeek-V2: A Strong, Economical, and
Efficient Mixture-of-Experts Language Model", 2024), in the absorbed form.

The cache holds, per position j, one latent vector c[j] and one rotary key r[j] that all query heads share. A
model multiplies the part of a head's query that is not rotated by the head's key up-projection first, which
brings it into the space of c, and the result by the head's value up-projection afterwards. In between, for a
query of the parts (q_latent, q_rope) of a row of `length` positions,

    s[j] = cap(scale * (q_latent . c[j] + q_rope . r[j]))   for 0 <= j < length
    out  = sum_j softmax(s)[j] * c[j]

    cap(x) = soft_cap * tanh(x / soft_cap), or x without a soft cap

in float32. Positions from `length` on, pages of others and the null page may hold NaN.

A decode step has one query a row. Tokens of a prompt are queries too, each of its own length, that name the
row whose pages they see.
"""

import functools
from collections.abc import Callable

from jaxtyping import Array, Float, Int32

from pallas_kernels.core.latent_pages import LatentPages
from pallas_kernels.core.selection import Implementation, UnsupportedError, select, should_interpret
from pallas_kernels.latent_attention import reference, triton

__all__ = ["LatentPages", "mla"]


def mla(
    q_latent: Float[Array, "queries num_heads latent_dim"],
    q_rope: Float[Array, "queries num_heads rope_dim"],
    kv_pages: LatentPages,
    page_table: Int32[Array, "rows max_pages"],
    lengths: Int32[Array, " queries"],
    *,
    scale: float,
    soft_cap: float | None = None,
    row_ids: Int32[Array, " queries"] | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "queries num_heads latent_dim"]:
    """Attention of each query over the first `lengths[query]` positions of its row, the query's own included.

    The row of a query is `row_ids[query]`, where these are given, which ascend, and else the one of its
    number. page_table
    entries beyond a query's length are not followed. A query of length 0 gives zeros. The result has the
    queries' dtype.

    DeepSeek's scale is (dimension of a head's query before it is absorbed) ** -0.5, times the square of
    YaRN's scale where the model uses it. There is no default: q_latent does not tell that dimension.

    On an H200 in bfloat16, 64 rows of 4,096 positions with 128 heads take 198 us, 369 TFLOP/s of the 684 of a
    plain matmul in the same run. docs/performance/attention-kernels.md has what limits it and what was tried.

    Raises ValueError where shapes or options contradict each other, and UnsupportedError where
    `implementation` cannot serve them.
    """
    _check(q_latent, q_rope, kv_pages, page_table, lengths, scale, soft_cap, row_ids)
    attend: Callable[..., Array]
    if select(implementation) == "reference":
        attend = reference.mla
    else:
        attend = functools.partial(triton.mla, interpret=should_interpret(interpret))
    operands = q_latent, q_rope, kv_pages.array, page_table, lengths
    return attend(*operands, scale=scale, soft_cap=soft_cap, row_ids=row_ids)


def _check(
    q_latent: Array,
    q_rope: Array,
    kv_pages: LatentPages,
    page_table: Array,
    lengths: Array,
    scale: float,
    soft_cap: float | None,
    row_ids: Array | None,
) -> None:
    latent_dim, rope_dim, cache_dim = q_latent.shape[-1], q_rope.shape[-1], kv_pages.cache_dim
    if q_latent.shape[:2] != q_rope.shape[:2]:
        raise ValueError(
            f"q_latent {q_latent.shape} and q_rope {q_rope.shape} must have the same rows and heads"
        )
    if latent_dim + rope_dim != cache_dim:
        raise ValueError(
            f"the queries have {latent_dim} latent and {rope_dim} rotary dimensions and the cache "
            f"{cache_dim}; it must be their sum"
        )
    rows = page_table if row_ids is None else row_ids
    if not rows.shape[0] == lengths.shape[0] == q_latent.shape[0]:
        name = "page_table" if row_ids is None else "row_ids"
        raise ValueError(
            f"q_latent has {q_latent.shape[0]} rows, {name} {rows.shape[0]} and lengths "
            f"{lengths.shape[0]}; they must be equal"
        )
    if not scale > 0:
        raise ValueError(f"scale={scale} must be positive")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap={soft_cap} must be positive; None means no cap")
    if not q_latent.dtype == q_rope.dtype == kv_pages.dtype:
        raise UnsupportedError(
            f"queries in {q_latent.dtype} and {q_rope.dtype} over a cache in {kv_pages.dtype}: "
            "no implementation mixes dtypes yet"
        )
