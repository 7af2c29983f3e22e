"""rope_cache_write: bound by reading the projection and writing queries, keys and values."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from benchmarks.kernels.case import Case, Limit, Target, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.kv_pages import KVPages
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.rope_cache_write import rope_cache_write, triton
from pallas_kernels.rope_cache_write.shapes import SHAPES, RopeCacheShape
from pallas_kernels.rope_cache_write.tuning import (
    RopeCacheWriteBlocks,
    RopeCacheWriteCall,
    rope_cache_write_candidates,
    rope_cache_write_key,
)

EPSILON = 1e-6
ITEMSIZE = 2
PAGE_SIZE = 16


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields a prefill of 8,192 tokens, and decode steps, where each token is written to another page."""
    if smoke:
        shape = RopeCacheShape(4, 2, 32, 32, is_normalized=True)
        yield _case("fused-write", 5, shape, is_decode=False, target=Target(80, "%"))
        return
    yield _case("fused-write", 8192, SHAPES["qwen3-8b"], is_decode=False, target=Target(80, "%"))
    yield _case("fused-write-llama-3.1-8b", 8192, SHAPES["llama-3.1-8b"], is_decode=False)
    for model in ("qwen3-0.6b", "qwen3-8b"):
        for tokens in (1, 8, 64, 256):
            yield _case(f"fused-write-{model}-decode-{tokens}", tokens, SHAPES[model], is_decode=True)


def _case(
    name: str, tokens: int, shape: RopeCacheShape, *, is_decode: bool, target: Target | None = None
) -> Case:
    num_bytes = tokens * (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim * ITEMSIZE
    angle_bytes = 4 * tokens * shape.rotary_dim  # cosines and sines of half as many pairs, in float32
    call = RopeCacheWriteCall(
        num_tokens=tokens,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rotary_dim=shape.rotary_dim,
        itemsize=ITEMSIZE,
    )
    kind = "decode" if is_decode else "prefill"
    norm = ", norm" if shape.is_normalized else ""
    return Case(
        id=name,
        op="rope_cache_write.rope_cache_write",
        shape=f"{tokens:,} tokens, {shape.num_heads}/{shape.num_kv_heads} heads of {shape.head_dim}{norm}, "
        f"{kind}",
        work=Work(num_bytes + angle_bytes, num_bytes),
        limit=Limit.COPY,
        make=functools.partial(_make, tokens, shape, is_decode),
        build=_pallas,
        reference=functools.partial(_call, "reference"),
        xla=functools.partial(_call, "reference"),
        target=target,
        tuning=Tuning(
            "rope_cache_write",
            "rope_cache_write",
            rope_cache_write_key(call),
            rope_cache_write_candidates(call),
        ),
    )


def _make(tokens: int, shape: RopeCacheShape, is_decode: bool, data: Data, num_sets: int) -> Inputs:
    """Makes one cache, which calls write in place, with a page for every token of a decode step or
    `PAGE_SIZE` tokens of a prefill."""
    pages_each = tokens if is_decode else -(-tokens // PAGE_SIZE)
    pages = (2, num_sets * pages_each + 1, PAGE_SIZE, shape.num_kv_heads, shape.head_dim)
    angles = [data.normal((tokens, shape.rotary_dim // 2), jnp.float32) for _ in range(2)]
    scales = tuple(data.normal((shape.head_dim,)) for _ in range(2)) if shape.is_normalized else None
    page_ids = np.random.default_rng(0).permutation(num_sets * pages_each).reshape(num_sets, pages_each) + 1
    token = np.arange(tokens)
    sets = []
    for ids in page_ids:
        places = (ids, token % PAGE_SIZE) if is_decode else (ids[token // PAGE_SIZE], token % PAGE_SIZE)
        heads = data.normal((tokens, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim))
        sets.append((heads, tuple(map(data.integers, places))))
    return Inputs((KVPages(data.normal(pages)), tuple(angles), scales), sets)


def _call(implementation: Implementation, carry, arguments):
    (kv_pages, angles, scales), (heads, slots) = carry, arguments
    q_scale, k_scale = scales or (None, None)
    q, kv_pages = rope_cache_write(
        *(heads, kv_pages, *angles, *slots),
        q_scale=q_scale,
        k_scale=k_scale,
        epsilon=EPSILON if scales else None,
        implementation=implementation,
    )
    return (kv_pages, angles, scales), q


def _pallas(blocks: RopeCacheWriteBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, "pallas")

    def step(carry, arguments):
        (kv_pages, angles, scales), (heads, slots) = carry, arguments
        norm = (*scales, EPSILON) if scales else None
        interpret = should_interpret(None)
        q, kv_pages = triton.rope_cache_write(
            heads, kv_pages, angles=angles, slots=slots, norm=norm, blocks=blocks, interpret=interpret
        )
        return (kv_pages, angles, scales), q

    return step
