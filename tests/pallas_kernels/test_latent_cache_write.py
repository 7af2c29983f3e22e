"""Both implementations of latent attention's cache write against the definition."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.latent_pages import LatentPages
from pallas_kernels.latent_cache_write import latent_cache_write, triton
from pallas_kernels.latent_cache_write.shapes import SHAPES, LatentWriteShape
from pallas_kernels.latent_cache_write.tuning import (
    LatentCacheWriteBlocks,
    LatentCacheWriteCall,
    latent_cache_write_blocks,
    latent_cache_write_candidates,
)
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import relative_error

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}  # relative error in the Euclidean norm
EPSILON = 1e-3  # large enough to matter
PAGE_SIZE, NUM_PADDING = 4, 3
TINY = SHAPES["tiny"]
INTERPRETED = [("tiny", jnp.float32), ("minicpm3-4b", jnp.bfloat16), ("glm-4.7-flash", jnp.float32)]
CASES = [
    pytest.param(name, dtype, id=f"{name}-{dtype.__name__}", marks=marks)
    for name in SHAPES
    for dtype in BOUNDS
    for marks in [() if (name, dtype) in INTERPRETED else pytest.mark.gpu]
]


@dataclass(frozen=True, eq=False)
class WriteCase:
    """Tokens at distinct places of a cache of NaN, and padding tokens that share the null page."""

    shape: LatentWriteShape
    q: np.ndarray
    latent: np.ndarray
    kv_pages: np.ndarray
    angles: np.ndarray
    page_ids: np.ndarray
    page_offsets: np.ndarray
    scale: np.ndarray

    def arguments(self, dtype: jnp.dtype) -> list[jnp.ndarray | LatentPages]:
        """What `latent_cache_write` takes, in order."""
        q, latent, pages = (jnp.asarray(each, dtype) for each in (self.q, self.latent, self.kv_pages))
        cos, sin = (jnp.asarray(turn(self.angles), jnp.float32) for turn in (np.cos, np.sin))
        return [q, latent, LatentPages(pages), cos, sin, self.page_ids, self.page_offsets]


def make_case(rng: np.random.Generator, shape: LatentWriteShape, num_tokens: int) -> WriteCase:
    num_pages = 2 + -(-num_tokens // PAGE_SIZE) * 2
    places = rng.permutation(np.arange(PAGE_SIZE, num_pages * PAGE_SIZE))[:num_tokens]  # none on page 0
    places = np.concatenate([places, rng.integers(0, PAGE_SIZE, NUM_PADDING)]).astype(np.int32)
    size, dim = num_tokens + NUM_PADDING, shape.latent_dim + shape.rope_dim
    return WriteCase(
        shape,
        rng.standard_normal((size, shape.num_heads, shape.head_dim), np.float32),
        rng.standard_normal((size, dim), np.float32) * 3,
        np.full((num_pages, PAGE_SIZE, dim), np.nan, np.float32),
        rng.uniform(-100, 100, (size, shape.rope_dim // 2)),
        places // PAGE_SIZE,
        places % PAGE_SIZE,
        rng.standard_normal(shape.latent_dim).astype(np.float32),
    )


def turned(x: np.ndarray, case: WriteCase) -> np.ndarray:
    """x in float64, of which a pair of columns is a complex number."""
    half, x = case.shape.rope_dim // 2, x.astype(np.float64)
    first, second = slice(0, half), slice(half, None)
    if case.shape.interleaved:
        first, second = slice(0, None, 2), slice(1, None, 2)
    angles = case.angles.reshape(len(x), *(1,) * (x.ndim - 2), half)
    numbers = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angles)
    out = np.empty_like(x)
    out[..., first], out[..., second] = numbers.real, numbers.imag
    return out


def check(case: WriteCase, q_rope: jnp.ndarray, pages: LatentPages, dtype: jnp.dtype) -> None:
    """Queries, latent vectors and keys are the definition's, and nothing else of the cache changed."""
    q, latent, scale = (
        np.asarray(jnp.asarray(each, dtype), np.float64) for each in (case.q, case.latent, case.scale)
    )
    c, key = np.split(latent, [case.shape.latent_dim], axis=1)
    c *= scale / np.sqrt(np.mean(c**2, axis=-1, keepdims=True) + EPSILON)
    wanted = np.concatenate([c, turned(key, case)], axis=1)
    cache = np.asarray(pages.array, np.float32)
    written, real = cache[case.page_ids, case.page_offsets], slice(0, -NUM_PADDING)
    assert relative_error(written[real], wanted[real]) < BOUNDS[dtype]
    wanted_q = turned(q[..., -case.shape.rope_dim :], case)
    assert relative_error(np.asarray(q_rope, np.float32), wanted_q) < BOUNDS[dtype]
    is_written = np.zeros(cache.shape[:2], bool)
    is_written[case.page_ids, case.page_offsets] = True
    assert np.isnan(cache[~is_written]).all(), "a place that no token has was written"
    assert np.isfinite(written).all(), "a place was written in part"


def run(case: WriteCase, implementation: str, dtype: jnp.dtype) -> tuple[jnp.ndarray, LatentPages]:
    write = compiled(
        latent_cache_write,
        epsilon=EPSILON,
        interleaved=case.shape.interleaved,
        implementation=implementation,
    )
    return write(*case.arguments(dtype), scale=jnp.asarray(case.scale, dtype))


@pytest.mark.parametrize("name", SHAPES)
def test_reference_is_the_definition(rng, name):
    case = make_case(rng, SHAPES[name], 6)
    check(case, *run(case, "reference", jnp.float32), jnp.float32)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_kernel_is_the_definition(rng, name, dtype):
    case = make_case(rng, SHAPES[name], 6)
    check(case, *run(case, "pallas", dtype), dtype)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("tokens", [1, 4])
def test_any_blocks(rng, tokens, interleaved):
    """Heads and tokens that do not fill the last blocks, and a latent vector that is no power of two."""
    case = make_case(rng, LatentWriteShape(5, 24, 48, 12, interleaved=interleaved), 6)
    *arguments, page_ids, page_offsets = case.arguments(jnp.float32)
    q, latent, pages, *angles = arguments
    got = triton.latent_cache_write(
        *(q, latent, pages),
        angles=tuple(angles),
        slots=(page_ids, page_offsets),
        scale=jnp.asarray(case.scale),
        epsilon=EPSILON,
        interleaved=interleaved,
        blocks=LatentCacheWriteBlocks(tokens, heads=2, num_warps=2),
        interpret=jax.default_backend() != "gpu",
    )
    check(case, *got, jnp.float32)


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_a_layer_takes_its_scale_of_a_stack_and_a_donated_cache_keeps_its_bits(rng, implementation):
    """Half of the random bits are those of many kinds of NaN."""
    case = make_case(rng, TINY, 6)
    q, latent, pages, *rest = case.arguments(jnp.float32)
    size = pages.array.shape
    before = rng.integers(0, 2**32, size, np.uint32) | rng.choice([0, 0x7F800000], size).astype("u4")
    donated = jax.lax.bitcast_convert_type(jnp.asarray(before), jnp.float32)
    options = {"epsilon": EPSILON, "interleaved": True, "implementation": implementation}
    write = jax.jit(functools.partial(latent_cache_write, **options), donate_argnums=2)
    stack = jnp.stack([jnp.full(TINY.latent_dim, jnp.nan), jnp.asarray(case.scale)])
    q_rope, written = write(q, latent, LatentPages(donated), *rest, scale=stack, layer=1)
    assert donated.is_deleted()
    after = np.array(jax.lax.bitcast_convert_type(written.array, jnp.uint32))
    places = case.page_ids, case.page_offsets
    as_nan = jnp.full_like(written.array, jnp.nan).at[places].set(written.array[places])
    check(case, q_rope, LatentPages(as_nan), jnp.float32)
    after[places] = before[places]
    np.testing.assert_array_equal(after, before)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("num_tokens", [1, 70, 1000])
@pytest.mark.parametrize("name", SHAPES)
def test_many_tokens_on_a_gpu(rng, name, num_tokens, dtype):
    case = make_case(rng, SHAPES[name], num_tokens)
    check(case, *run(case, "pallas", dtype), dtype)


def test_shapes_that_contradict_each_other_are_errors(rng):
    case = make_case(rng, TINY, 3)
    q, latent, pages, *rest = case.arguments(jnp.float32)
    write = functools.partial(latent_cache_write, scale=jnp.asarray(case.scale), epsilon=EPSILON)
    with pytest.raises(ValueError, match="have 6, 5, 6, 6, 6, 6 tokens; they must have as many"):
        write(q, latent[1:], pages, *rest)
    with pytest.raises(ValueError, match="latent has 72 dimensions and the cache 80; both must be the 64 of"):
        write(q, latent[:, :72], pages, *rest)
    with pytest.raises(ValueError, match=r"cos has shape \(6, 8\) and sin \(6, 8\); both must be"):
        write(q[..., :8], latent, pages, *rest)
    with pytest.raises(ValueError, match=r"scale has shape \(64,\); it must be \(layers, 64\), since"):
        write(q, latent, pages, *rest, layer=0)
    with pytest.raises(UnsupportedError, match="queries in bfloat16 and latent vectors in float32 for a"):
        write(q.astype(jnp.bfloat16), latent, pages, *rest)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("num_tokens", [1, 100, 16384])
def test_blocks_are_consistent(name, num_tokens):
    shape = SHAPES[name]
    call = LatentCacheWriteCall(num_tokens, shape.num_heads, shape.latent_dim, shape.rope_dim, itemsize=2)
    candidates = latent_cache_write_candidates(call)
    assert 1 < len(candidates) <= 64
    for blocks in [latent_cache_write_blocks(call), *candidates]:
        sizes = blocks.tokens, blocks.heads, blocks.num_warps
        assert all(n > 0 and n & (n - 1) == 0 for n in sizes), blocks
