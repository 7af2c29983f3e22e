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
"""

from jaxtyping import Array, Float, Int32

from pallas_kernels.core.selection import Implementation, UnsupportedError, select, should_interpret
from pallas_kernels.latent_attention import reference, triton

__all__ = ["mla"]


def mla(
    q_latent: Float[Array, "rows num_heads latent_dim"],
    q_rope: Float[Array, "rows num_heads rope_dim"],
    kv_pages: Float[Array, "num_pages page_size latent_dim_plus_rope_dim"],
    page_table: Int32[Array, "rows max_pages"],
    lengths: Int32[Array, " rows"],
    *,
    scale: float,
    soft_cap: float | None = None,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "rows num_heads latent_dim"]:
    """Attention of one query token per row over the row's first `lengths[row]` positions, the query's own
    included.

    A position of the cache is its latent vector followed by its rotary key. page_table entries beyond a row's
    length are not followed. A row of length 0 gives zeros. The result has the queries' dtype.

    DeepSeek's scale is (dimension of a head's query before it is absorbed) ** -0.5, times the square of
    YaRN's scale where the model uses it. There is no default: q_latent does not tell that dimension.

    On an H200 in bfloat16, 64 rows of 4,096 positions with 128 heads take 198 us, 369 TFLOP/s of the 684 of a
    plain matmul in the same run. docs/performance/attention-kernels.md has what limits it and what was tried.

    Raises ValueError where shapes or options contradict each other, and UnsupportedError where
    `implementation` cannot serve them.
    """
    _check(q_latent, q_rope, kv_pages, page_table, lengths, scale, soft_cap)
    if select(implementation) == "reference":
        return reference.mla(q_latent, q_rope, kv_pages, page_table, lengths, scale=scale, soft_cap=soft_cap)
    return triton.mla(
        q_latent,
        q_rope,
        kv_pages,
        page_table,
        lengths,
        scale=scale,
        soft_cap=soft_cap,
        interpret=should_interpret(interpret),
    )


def _check(
    q_latent: Array,
    q_rope: Array,
    kv_pages: Array,
    page_table: Array,
    lengths: Array,
    scale: float,
    soft_cap: float | None,
) -> None:
    latent_dim, rope_dim, cache_dim = q_latent.shape[-1], q_rope.shape[-1], kv_pages.shape[-1]
    if q_latent.shape[:2] != q_rope.shape[:2]:
        raise ValueError(
            f"q_latent {q_latent.shape} and q_rope {q_rope.shape} must have the same rows and heads"
        )
    if latent_dim + rope_dim != cache_dim:
        raise ValueError(
            f"the queries have {latent_dim} latent and {rope_dim} rotary dimensions and the cache "
            f"{cache_dim}; it must be their sum"
        )
    if not page_table.shape[0] == lengths.shape[0] == q_latent.shape[0]:
        raise ValueError(
            f"q_latent has {q_latent.shape[0]} rows, page_table {page_table.shape[0]} and lengths "
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
