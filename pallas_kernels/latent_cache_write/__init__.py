"""The work of latent attention between the projections and the softmax, in one pass: the RMSNorm of a token's
latent vector, the rotary embedding of its key and of its queries' rotary part, and the write into the paged
cache.

The layer is that of DeepSeek-AI, "DeepSeek-V2" (2024); the norm that of Zhang and Sennrich, "Root Mean Square
Layer Normalization" (2019); the embedding that of Su et al., "RoFormer" (2021), with pairs half of the
dimensions apart or side by side; the cache that of `pallas_kernels.latent_attention`.
"""

import functools
from collections.abc import Callable

from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels.core.latent_pages import LatentPages
from pallas_kernels.core.selection import Implementation, UnsupportedError, select, should_interpret
from pallas_kernels.latent_cache_write import reference, triton

__all__ = ["latent_cache_write"]


def latent_cache_write(
    q: Float[Array, "tokens num_heads head_dim"],
    latent: Float[Array, "tokens latent_dim_plus_rope_dim"],
    kv_pages: LatentPages,
    cos: Float32[Array, "tokens half"],
    sin: Float32[Array, "tokens half"],
    page_ids: Int32[Array, " tokens"],
    page_offsets: Int32[Array, " tokens"],
    *,
    scale: Float[Array, " latent_dim"] | Float[Array, "layers latent_dim"],
    epsilon: float,
    layer: int | Int32[Array, ""] | None = None,
    interleaved: bool = False,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> tuple[Float[Array, "tokens num_heads rope_dim"], LatentPages]:
    """The rotary part of the queries, ready for attention, and the cache with each token in it.

    A token of `latent` is what a projection gives: its latent vector c and, behind that, its rotary key k.
    The rotary part of a query are the last `2 * half` of its head's dimensions. With

        n(c)    = c / sqrt(mean(c ** 2) + epsilon) * scale
        r(x)[i] = x[i] * cos[i] - x[i + half] * sin[i]                      for i < half
        r(x)[i] = x[i] * cos[i - half] + x[i - half] * sin[i - half]        for half <= i < 2 * half

    or, where it is `interleaved`, with pairs side by side,

        r(x)[2 * i]     = x[2 * i] * cos[i] - x[2 * i + 1] * sin[i]
        r(x)[2 * i + 1] = x[2 * i + 1] * cos[i] + x[2 * i] * sin[i]

    the result is r(q), and n(c) and r(k), one behind the other, are written to kv_pages.array[
    page_ids[token], page_offsets[token]]. All of it is float32, rounded once.

    `scale` may be a stack, of which `layer` tells the one to take; it is data, also where it is a Python
    integer, so that all layers share one kernel.

    The cache is updated in place where it is donated to the `jax.jit` around the call, or used nowhere else;
    else XLA copies it first. What no token writes keeps its bits. Tokens that share a position (padding on a
    null page) leave there any one of theirs, or a mixture; positions outside the cache are not allowed.

    Raises ValueError where shapes contradict each other, and UnsupportedError where `implementation` cannot
    serve them.
    """
    _check(q, latent, kv_pages, angles=(cos, sin), slots=(page_ids, page_offsets), scale=scale, layer=layer)
    write: Callable[..., tuple[Array, LatentPages]]
    if select(implementation) == "reference":
        write = reference.latent_cache_write
    else:
        write = functools.partial(triton.latent_cache_write, interpret=should_interpret(interpret))
    return write(
        q,
        latent,
        kv_pages,
        angles=(cos, sin),
        slots=(page_ids, page_offsets),
        scale=scale,
        epsilon=epsilon,
        layer=layer,
        interleaved=interleaved,
    )


def _check(
    q: Array,
    latent: Array,
    kv_pages: LatentPages,
    *,
    angles: tuple[Array, Array],
    slots: tuple[Array, Array],
    scale: Array,
    layer: int | Array | None,
) -> None:
    num_tokens, (cos, sin) = len(q), angles
    if any(len(each) != num_tokens for each in (latent, *angles, *slots)):
        sizes = ", ".join(str(len(each)) for each in (q, latent, *angles, *slots))
        raise ValueError(
            f"q, latent, cos, sin, page_ids and page_offsets have {sizes} tokens; they must have as many"
        )
    latent_dim, rope_dim = scale.shape[-1], 2 * cos.shape[1]
    if latent.shape[1] != latent_dim + rope_dim or kv_pages.cache_dim != latent.shape[1]:
        raise ValueError(
            f"latent has {latent.shape[1]} dimensions and the cache {kv_pages.cache_dim}; both must be the "
            f"{latent_dim} of the scale and the {rope_dim} that are turned together"
        )
    if cos.shape != sin.shape or rope_dim > q.shape[-1]:
        raise ValueError(
            f"cos has shape {cos.shape} and sin {sin.shape}; both must be ({num_tokens}, half) with half at "
            f"most {q.shape[-1] // 2}"
        )
    if scale.ndim != (1 if layer is None else 2):
        wanted = f"({latent_dim},)" if layer is None else f"(layers, {latent_dim}), since there is a layer"
        raise ValueError(f"scale has shape {scale.shape}; it must be {wanted}")
    if not q.dtype == latent.dtype == kv_pages.dtype:
        raise UnsupportedError(
            f"queries in {q.dtype} and latent vectors in {latent.dtype} for a cache in {kv_pages.dtype}: no "
            "implementation mixes dtypes"
        )
