"""latent_cache_write: bound by reading queries and latent vectors, and writing turned ones and the cache."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.case import Case, Limit, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.latent_pages import LatentPages
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.latent_cache_write import latent_cache_write, triton
from pallas_kernels.latent_cache_write.shapes import SHAPES, LatentWriteShape
from pallas_kernels.latent_cache_write.tuning import (
    LatentCacheWriteBlocks,
    LatentCacheWriteCall,
    latent_cache_write_candidates,
    latent_cache_write_key,
)

EPSILON = 1e-6
ITEMSIZE = 2
PAGE_SIZE = 16


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields a prompt of 8,192 tokens and decode steps, each token in a page of its own."""
    if smoke:
        yield _case("latent-write", 5, SHAPES["tiny"])
        return
    for model in ("deepseek-v2-lite", "deepseek-v3"):
        for tokens in (1, 64, 8192):
            yield _case(f"latent-write-{model}-{tokens}", tokens, SHAPES[model])


def _case(name: str, tokens: int, shape: LatentWriteShape) -> Case:
    cache_bytes = tokens * (shape.latent_dim + shape.rope_dim) * ITEMSIZE
    query_bytes = tokens * shape.num_heads * shape.rope_dim * ITEMSIZE
    angle_bytes = 4 * tokens * shape.rope_dim
    call = LatentCacheWriteCall(tokens, shape.num_heads, shape.latent_dim, shape.rope_dim, ITEMSIZE)
    return Case(
        id=name,
        op="latent_cache_write.latent_cache_write",
        shape=f"{tokens:,} tokens, {shape.num_heads} heads, latent {shape.latent_dim} + {shape.rope_dim}",
        work=Work(cache_bytes + query_bytes + angle_bytes, cache_bytes + query_bytes),
        limit=Limit.COPY,
        make=functools.partial(_make, tokens, shape),
        build=functools.partial(_pallas, shape),
        reference=functools.partial(_call, shape, "reference"),
        xla=functools.partial(_call, shape, "reference"),
        is_latency=tokens == 1,
        tuning=Tuning(
            "latent_cache_write",
            "latent_cache_write",
            latent_cache_write_key(call),
            latent_cache_write_candidates(call),
        ),
    )


def _make(tokens: int, shape: LatentWriteShape, data: Data, num_sets: int) -> Inputs:
    """Makes one cache, which calls write in place."""
    dim = shape.latent_dim + shape.rope_dim
    pages = LatentPages(data.normal((num_sets * tokens + 1, PAGE_SIZE, dim)))
    angles = tuple(data.normal((tokens, shape.rope_dim // 2), jnp.float32) for _ in range(2))
    page_ids = np.random.default_rng(0).permutation(num_sets * tokens).reshape(num_sets, tokens) + 1
    sets = [
        (
            data.normal((tokens, shape.num_heads, shape.head_dim)),
            data.normal((tokens, dim)),
            (data.integers(ids), data.integers(np.arange(tokens) % PAGE_SIZE)),
        )
        for ids in page_ids
    ]
    return Inputs((pages, angles, data.normal((shape.latent_dim,))), sets)


def _call(shape: LatentWriteShape, implementation: Implementation, carry, arguments):
    (pages, angles, scale), (q, latent, slots) = carry, arguments
    q_rope, pages = latent_cache_write(
        *(q, latent, pages, *angles, *slots),
        scale=scale,
        epsilon=EPSILON,
        interleaved=shape.interleaved,
        implementation=implementation,
    )
    return (pages, angles, scale), q_rope


def _pallas(shape: LatentWriteShape, blocks: LatentCacheWriteBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, shape, "pallas")

    def step(carry, arguments):
        (pages, angles, scale), (q, latent, slots) = carry, arguments
        q_rope, pages = triton.latent_cache_write(
            *(q, latent, pages),
            angles=angles,
            slots=slots,
            scale=scale,
            epsilon=EPSILON,
            interleaved=shape.interleaved,
            blocks=blocks,
            interpret=should_interpret(None),
        )
        return (pages, angles, scale), q_rope

    return step
