"""Both implementations of the fused norm, rotation and cache write against the definition."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.kv_pages import KVPages, QuantizedKVPages
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.rope_cache_write import rope_cache_write, triton
from pallas_kernels.rope_cache_write.shapes import SHAPES, RopeCacheShape
from pallas_kernels.rope_cache_write.tuning import (
    RopeCacheWriteBlocks,
    RopeCacheWriteCall,
    rope_cache_write_blocks,
    rope_cache_write_candidates,
)
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import dequantize, quantize, relative_error

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}  # relative error in the Euclidean norm
EPSILON = 1e-3  # large enough to matter
PAGE_SIZE = 4
SMALL = RopeCacheShape(4, 2, 16, 16, is_normalized=True)
# Interpret mode is slow: it runs these alone. The reference runs each shape in one dtype.
INTERPRETED = {
    "phi-2": jnp.float32,
    "phi-4-mini": jnp.float32,
    "glm-4-9b": jnp.bfloat16,
    "qwen3-8b": jnp.bfloat16,
    "qwen3-next-80b": jnp.float32,
}
CASES = [
    pytest.param(name, dtype, implementation, id=f"{name}-{dtype.__name__}-{implementation}", marks=marks)
    for i, name in enumerate(SHAPES)
    for dtype in BOUNDS
    for implementation, its_dtype in (
        ("reference", list(BOUNDS)[i % len(BOUNDS)]),
        ("pallas", INTERPRETED.get(name)),
    )
    for marks in [() if dtype == its_dtype else pytest.mark.gpu]
]


@dataclass(frozen=True, eq=False)
class WriteCase:
    """Tokens at distinct places of a cache of NaN, and padding tokens that share the null page."""

    shape: RopeCacheShape
    heads: np.ndarray
    kv_pages: np.ndarray
    angles: np.ndarray
    page_ids: np.ndarray
    page_offsets: np.ndarray
    scales: np.ndarray  # of queries and of keys

    def arguments(self, dtype: jnp.dtype) -> list[jnp.ndarray | KVPages]:
        """What `rope_cache_write` takes, in order."""
        heads, kv_pages = jnp.asarray(self.heads, dtype), KVPages(jnp.asarray(self.kv_pages, dtype))
        cos, sin = (jnp.asarray(turn(self.angles), jnp.float32) for turn in (np.cos, np.sin))
        return [heads, kv_pages, cos, sin, jnp.asarray(self.page_ids), jnp.asarray(self.page_offsets)]

    def options(self, dtype: jnp.dtype) -> dict:
        """The norm, where the shape has one."""
        if not self.shape.is_normalized:
            return {}
        q_scale, k_scale = jnp.asarray(self.scales, dtype)
        return {"q_scale": q_scale, "k_scale": k_scale, "epsilon": EPSILON}


def make_case(
    rng: np.random.Generator, shape: RopeCacheShape, num_tokens: int, num_padding: int = 0
) -> WriteCase:
    num_pages = 2 + -(-num_tokens // PAGE_SIZE) * 2
    places = rng.permutation(np.arange(PAGE_SIZE, num_pages * PAGE_SIZE))[:num_tokens]  # none on page 0
    places = np.concatenate([places, rng.integers(0, PAGE_SIZE, num_padding)]).astype(np.int32)
    size = num_tokens + num_padding
    heads = (
        rng.standard_normal((size, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim), np.float32) * 3
    )
    kv_pages = np.full((2, num_pages, PAGE_SIZE, shape.num_kv_heads, shape.head_dim), np.nan, np.float32)
    angles = rng.uniform(-100, 100, (size, shape.rotary_dim // 2))
    scales = rng.standard_normal((2, shape.head_dim), np.float32)
    return WriteCase(shape, heads, kv_pages, angles, places // PAGE_SIZE, places % PAGE_SIZE, scales)


def oracle(case: WriteCase, dtype: jnp.dtype) -> np.ndarray:
    """Every head, normalized and turned, in float64: a pair of columns is a complex number."""
    shape, half = case.shape, case.shape.rotary_dim // 2
    x = np.asarray(jnp.asarray(case.heads, dtype), np.float64).copy()
    is_q, is_k = slice(0, shape.num_heads), slice(shape.num_heads, shape.num_heads + shape.num_kv_heads)
    for section, scale in zip(
        (is_q, is_k), np.asarray(jnp.asarray(case.scales, dtype), np.float64), strict=True
    ):
        if shape.is_normalized:
            x[:, section] *= scale / np.sqrt(np.mean(x[:, section] ** 2, axis=-1, keepdims=True) + EPSILON)
        first, second = (slice(0, half), slice(half, 2 * half))
        if shape.interleaved:
            first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
        turned = (x[:, section, first] + 1j * x[:, section, second]) * np.exp(1j * case.angles)[:, None]
        x[:, section, first], x[:, section, second] = turned.real, turned.imag
    return x


def check(case: WriteCase, q: jnp.ndarray, pages: KVPages, dtype: jnp.dtype, num_padding: int = 0) -> None:
    """Queries, keys and values are the definition's, and nothing else of the cache changed."""
    wanted = oracle(case, dtype)
    q, kv_pages = np.asarray(q, np.float32), np.asarray(pages.array, np.float32)
    written = kv_pages[:, case.page_ids, case.page_offsets]
    num_heads, num_kv_heads = case.shape.num_heads, case.shape.num_kv_heads
    wanted_kv = np.stack(
        [wanted[:, num_heads : num_heads + num_kv_heads], wanted[:, num_heads + num_kv_heads :]]
    )
    real = slice(0, len(q) - num_padding)
    assert relative_error(q, wanted[:, :num_heads]) < BOUNDS[dtype]
    assert relative_error(written[0, real], wanted_kv[0, real]) < BOUNDS[dtype]
    np.testing.assert_array_equal(written[1, real], wanted_kv[1, real], "values are copied")
    is_written = np.zeros(kv_pages.shape[1:3], bool)
    is_written[case.page_ids, case.page_offsets] = True
    assert np.isnan(kv_pages[:, ~is_written]).all(), "a place that no token has was written"
    assert np.isfinite(written).all(), "a place was written in part"


def run(case: WriteCase, implementation: str, dtype: jnp.dtype) -> tuple[jnp.ndarray, KVPages]:
    scales = case.options(dtype)
    epsilon = scales.pop("epsilon", None)
    write = compiled(
        rope_cache_write,
        epsilon=epsilon,
        interleaved=case.shape.interleaved,
        implementation=implementation,
    )
    return write(*case.arguments(dtype), **scales)


@pytest.mark.parametrize(("name", "dtype", "implementation"), CASES)
def test_is_the_definition(rng, name, dtype, implementation):
    case = make_case(rng, SHAPES[name], num_tokens=3)
    q, kv_pages = run(case, implementation, dtype)
    assert q.dtype == kv_pages.dtype == dtype
    check(case, q, kv_pages, dtype)


@pytest.mark.parametrize(
    ("shape", "num_tokens", "blocks"),
    [
        (SMALL, 1, RopeCacheWriteBlocks(8, 8, 2)),
        (SMALL, 7, RopeCacheWriteBlocks(1, 1, 1)),
        (RopeCacheShape(3, 1, 12, 8, is_normalized=True), 9, RopeCacheWriteBlocks(4, 2, 1)),
        (RopeCacheShape(7, 3, 20, 20), 2, RopeCacheWriteBlocks(16, 8, 2)),
        (RopeCacheShape(5, 5, 24, 6), 30, RopeCacheWriteBlocks(64, 1, 8)),
        (RopeCacheShape(5, 5, 24, 6, interleaved=True), 30, RopeCacheWriteBlocks(64, 1, 8)),
        (
            RopeCacheShape(3, 1, 12, 12, is_normalized=True, interleaved=True),
            9,
            RopeCacheWriteBlocks(4, 2, 1),
        ),
    ],
    ids=str,
)
def test_any_blocks_with_padding_on_the_null_page(rng, shape, num_tokens, blocks):
    case = make_case(rng, shape, num_tokens, num_padding=5)
    heads, kv_pages, cos, sin, *slots = case.arguments(jnp.float32)
    norm = tuple(case.options(jnp.float32).values()) or None
    options = {"norm": norm, "blocks": blocks, "interpret": should_interpret(None)}
    options["interleaved"] = shape.interleaved
    write = jax.jit(functools.partial(triton.rope_cache_write, **options))
    written = write(heads, kv_pages, angles=(cos, sin), slots=tuple(slots))
    check(case, *written, jnp.float32, num_padding=5)


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
@pytest.mark.parametrize("quantized", [jnp.int8, jnp.float8_e4m3fn], ids=jnp.dtype)
def test_a_cache_in_8_bits_has_the_same_vectors_quantized(rng, quantized, implementation):
    """Also where a part of a head is rotated, and heads and tokens fill no block; what no token has is left
    alone."""
    case = make_case(rng, RopeCacheShape(3, 1, 12, 8, is_normalized=True), num_tokens=9, num_padding=3)
    heads, kv_pages, *rest = case.arguments(jnp.float32)
    scales = jnp.full((2, kv_pages.num_pages, 1, PAGE_SIZE), jnp.nan)
    before = QuantizedKVPages(jnp.full(kv_pages.array.shape, 77, quantized), scales, jnp.dtype(jnp.float32))
    norm = case.options(jnp.float32)
    write = compiled(rope_cache_write, epsilon=norm.pop("epsilon"), implementation=implementation)
    _, after = write(heads, before, *rest, **norm)
    _, plain = write(*case.arguments(jnp.float32), **norm)
    pages = jnp.arange(kv_pages.num_pages)
    wanted = dequantize(*quantize(np.asarray(plain.array)[:, 1:], quantized))
    got = np.asarray(after.gathered(pages))[:, 1:]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    difference = np.abs(np.nan_to_num(got - wanted))
    assert (difference > 1e-5).mean() < 0.02, "an element between two steps, now and then"
    assert (np.asarray(after.values)[:, 1:][np.isnan(wanted)] == 77).all() or quantized != jnp.int8


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
@pytest.mark.parametrize("is_normalized", [True, False])
@pytest.mark.parametrize("quantized", [jnp.int8, jnp.float8_e4m3fn], ids=jnp.dtype)
def test_fixed_scales_of_a_cache_are_those_of_a_layer_and_a_head(
    rng, quantized, is_normalized, implementation
):
    """Values go into the cache as they are, so that these are bit for bit the definition's; keys are those of
    a cache that is not quantized."""
    case = make_case(rng, RopeCacheShape(3, 3, 12, 8, is_normalized), num_tokens=9, num_padding=3)
    heads, kv_pages, *rest = case.arguments(jnp.float32)
    slots = np.asarray(rest[2])[:9], np.asarray(rest[3])[:9]
    empty = jnp.full((2, kv_pages.num_pages, 3, PAGE_SIZE), jnp.nan)
    before = QuantizedKVPages(jnp.full(kv_pages.array.shape, 77, quantized), empty, jnp.dtype(jnp.float32))
    norm = case.options(jnp.float32)
    epsilon = norm.pop("epsilon", None)
    stacked = {name: jnp.full((2, 12), jnp.nan).at[1].set(scale) for name, scale in norm.items()}
    of_layer = np.array([[0.01, 0.02, 0.03], [0.001, 0.02, 0.4]], np.float32)
    kv_scales = jnp.full((2, 2, 3), jnp.nan).at[1].set(of_layer)
    write = compiled(rope_cache_write, epsilon=epsilon, implementation=implementation)
    _, after = write(heads, before, *rest, **stacked, kv_scales=kv_scales, layer=1)
    _, plain = write(*case.arguments(jnp.float32), **norm)

    written = np.asarray(plain.array)[:, *slots] / of_layer[:, None, :, None]
    least, largest = (-128, 127) if quantized == jnp.int8 else (-448, 448)
    clipped = np.clip(written, least, largest)
    wanted = (np.rint(clipped) if quantized == jnp.int8 else clipped).astype(quantized).astype(np.float32)
    values = np.asarray(after.values.astype(jnp.float32))[:, *slots]
    np.testing.assert_array_equal(values[1], wanted[1])
    assert (values[0] != wanted[0]).mean() < 0.02, "an element between two steps, now and then"
    assert (np.abs(written) > largest).any(), "some are beyond the largest"
    scales = np.asarray(after.scales)[:, slots[0], :, slots[1]].swapaxes(0, 1)
    np.testing.assert_array_equal(scales, np.broadcast_to(of_layer[:, None], scales.shape))


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_a_layer_of_a_stack_of_scales(rng, implementation):
    """The others are NaN. The layer is traced, and one compiled call serves all."""
    case = make_case(rng, SMALL, num_tokens=3)
    arguments, options = case.arguments(jnp.float32), case.options(jnp.float32)
    scales = {name: jnp.full((3, 16), jnp.nan).at[1].set(options[name]) for name in ("q_scale", "k_scale")}
    run = functools.partial(
        rope_cache_write, *arguments, epsilon=EPSILON, implementation=implementation, **scales
    )
    for q, kv_pages in (run(layer=1), jax.jit(lambda layer: run(layer=layer))(1)):
        check(case, q, kv_pages, jnp.float32)


def test_all_layers_share_a_kernel(rng):
    """Were the layer a number in it, a model would trace and compile a kernel for each."""
    case = make_case(rng, SMALL, num_tokens=3)
    heads, kv_pages, *rest = case.arguments(jnp.float32)
    scales = {name: jnp.ones((3, 16)) for name in ("q_scale", "k_scale")} | {"epsilon": EPSILON}

    def stack(kv_pages):
        for layer in range(3):
            _, kv_pages = rope_cache_write(
                heads, kv_pages, *rest, **scales, layer=layer, implementation="pallas"
            )
        return kv_pages

    calls = [eqn for eqn in jax.make_jaxpr(stack)(kv_pages).jaxpr.eqns if "jaxpr" in eqn.params]
    assert len(calls) == 3
    assert len({id(eqn.params["jaxpr"]) for eqn in calls}) == 1


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_other_bits_of_a_donated_cache_are_kept(rng, implementation):
    """In a buffer that the call takes over. Half of the random bits are those of many kinds of NaN."""
    case = make_case(rng, SMALL, num_tokens=6)
    heads, kv_pages, *rest = case.arguments(jnp.float32)
    size = kv_pages.array.shape
    before = rng.integers(0, 2**32, size, np.uint32) | rng.choice([0, 0x7F800000], size).astype("u4")
    donated = jax.lax.bitcast_convert_type(jnp.asarray(before), jnp.float32)
    options = case.options(jnp.float32) | {"implementation": implementation}
    write = jax.jit(functools.partial(rope_cache_write, **options), donate_argnums=1)
    _, written = write(heads, KVPages(donated), *rest)
    assert donated.is_deleted()
    after = np.array(jax.lax.bitcast_convert_type(written.array, jnp.uint32))
    places = slice(None), case.page_ids, case.page_offsets
    assert (after[places] != before[places]).any()
    after[places] = before[places]
    np.testing.assert_array_equal(after, before)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("num_tokens", [1, 70, 1000])
@pytest.mark.parametrize("name", SHAPES)
def test_many_tokens_on_a_gpu(rng, name, num_tokens, dtype):
    case = make_case(rng, SHAPES[name], num_tokens, num_padding=31)
    check(case, *run(case, "pallas", dtype), dtype, num_padding=31)


def test_shapes_that_contradict_each_other_are_errors(rng):
    heads, kv_pages, cos, sin, page_ids, page_offsets = make_case(rng, SMALL, 3).arguments(jnp.float32)
    slots, scale = (page_ids, page_offsets), jnp.ones(16)
    with pytest.raises(ValueError, match="head_dim 12 and the cache 16"):
        rope_cache_write(heads[..., :12], kv_pages, cos, sin, *slots)
    with pytest.raises(ValueError, match="4 heads hold no query: 2 KV heads take 4 of them"):
        rope_cache_write(heads[:, :4], kv_pages, cos, sin, *slots)
    with pytest.raises(
        ValueError, match=r"cos has shape \(2, 8\) and sin \(3, 8\); both must be \(3, half\)"
    ):
        rope_cache_write(heads, kv_pages, cos[:2], sin, *slots)
    with pytest.raises(ValueError, match="half at most 8"):
        rope_cache_write(heads, kv_pages, jnp.ones((3, 9)), jnp.ones((3, 9)), *slots)
    with pytest.raises(
        ValueError, match=r"page_ids has shape \(2,\) and page_offsets \(3,\); both must be \(3,\)"
    ):
        rope_cache_write(heads, kv_pages, cos, sin, page_ids[:2], page_offsets)
    with pytest.raises(ValueError, match="q_scale, k_scale and epsilon; give all three"):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, q_scale=scale, epsilon=1e-6)
    with pytest.raises(ValueError, match="q_scale, k_scale and epsilon; give all three"):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, q_scale=scale, k_scale=scale)
    with pytest.raises(
        ValueError, match=r"q_scale has shape \(16,\) and k_scale \(8,\); both must be \(16,\)"
    ):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, q_scale=scale, k_scale=scale[:8], epsilon=1e-6)
    stacked = {"q_scale": jnp.ones((3, 16)), "k_scale": jnp.ones((3, 16)), "epsilon": 1e-6}
    with pytest.raises(
        ValueError, match=r"q_scale has shape \(3, 16\) and k_scale \(3, 16\); both must be \(16,\)"
    ):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, **stacked)
    with pytest.raises(ValueError, match=r"both must be \(layers, 16\), since there is a layer"):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, **stacked | {"k_scale": scale}, layer=0)
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=f"layer={layer} is outside of a stack of 3 scales"):
            rope_cache_write(heads, kv_pages, cos, sin, *slots, **stacked, layer=layer)
    with pytest.raises(ValueError, match="give all three, or neither scale nor layer"):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, layer=0)
    with pytest.raises(
        ValueError, match=r"heads has shape \(1, 3, 8, 16\); give \[tokens, heads, head_dim\]"
    ):
        rope_cache_write(heads[None], kv_pages, cos, sin, *slots)
    fixed = jnp.ones((2, 2))
    with pytest.raises(ValueError, match="kv_scales are given, and a cache in float32 has no scales; leave"):
        rope_cache_write(heads, kv_pages, cos, sin, *slots, kv_scales=fixed)
    values, scales = kv_pages.array.astype(jnp.int8), jnp.zeros((2, kv_pages.num_pages, 2, PAGE_SIZE))
    quantized = QuantizedKVPages(values, scales, kv_pages.dtype)
    with pytest.raises(ValueError, match=r"kv_scales has shape \(2,\), and must be \(2, 2\)"):
        rope_cache_write(heads, quantized, cos, sin, *slots, kv_scales=fixed[0])
    with pytest.raises(ValueError, match=r"must be \(layers, 2, 2\), since there is a layer"):
        rope_cache_write(heads, quantized, cos, sin, *slots, kv_scales=fixed, layer=0)
    with pytest.raises(UnsupportedError, match="heads in bfloat16 and a cache in float32"):
        rope_cache_write(heads.astype(jnp.bfloat16), kv_pages, cos, sin, *slots)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("num_tokens", [1, 100, 16384])
def test_blocks_are_consistent(name, num_tokens):
    shape = SHAPES[name]
    call = RopeCacheWriteCall(
        num_tokens=num_tokens,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rotary_dim=shape.rotary_dim,
        itemsize=2,
    )
    candidates = rope_cache_write_candidates(call)
    assert 1 < len(candidates) <= 64
    for blocks in [rope_cache_write_blocks(call), *candidates]:
        assert blocks.heads <= blocks.rows
        assert all(n > 0 and n & (n - 1) == 0 for n in (blocks.rows, blocks.heads, blocks.num_warps)), blocks
