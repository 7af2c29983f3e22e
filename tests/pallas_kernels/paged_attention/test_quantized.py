"""Attention over a cache in 8 bits: what the cache holds, attended in float64; and a new token, which attends
to itself as every later one does."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.paged_attention import (
    QuantizedKVPages,
    append_and_decode,
    decode,
    extend,
)
from pallas_kernels.paged_attention.decode import triton as decode_triton
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks, DecodeCall, decode_key
from pallas_kernels.paged_attention.extend import triton as extend_triton
from pallas_kernels.paged_attention.extend.tuning import ExtendBlocks
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape
from pallas_kernels.rope_cache_write import rope_cache_write
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import PagedCase, in_8_bits, make_case, oracle, relative_error

DTYPES = (jnp.int8, jnp.float8_e4m3fn)
BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}  # those of a cache that is not quantized
LENGTHS = [0, 1, 15, 16, 17, 32, 90]
QUERY_LENGTHS = [0, 1, 3, 16, 5, 31, 40]
SMALL_SHAPES = [
    AttentionShape(8, 2, 128),
    AttentionShape(4, 4, 80),
    AttentionShape(4, 1, 64, soft_cap=2.0),
    AttentionShape(6, 3, 16, sliding_window=20, sinks=True),
]


def on_a_gpu_alone(*values) -> list:
    return [pytest.param(*value, marks=pytest.mark.gpu) for value in values]


def run(case: PagedCase, implementation: str, dtype) -> np.ndarray:
    function = decode if case.query_starts is None else extend
    attend = compiled(function, options=case.options, implementation=implementation)
    return np.asarray(attend(*case.arguments(dtype), sinks=case.keywords()["sinks"]), np.float32)


@pytest.mark.parametrize("quantized", DTYPES, ids=jnp.dtype)
@pytest.mark.parametrize("shape", SMALL_SHAPES[1::2], ids=str)
def test_references_attend_to_what_the_cache_holds(rng, shape, quantized):
    for queries in (None, QUERY_LENGTHS):
        case = in_8_bits(make_case(rng, shape, LENGTHS, 4, queries, num_padding_tokens=5), quantized)
        assert relative_error(run(case, "reference", jnp.float32), oracle(case)) < 1e-6


@pytest.mark.parametrize(
    ("shape", "quantized", "dtype"),
    [
        (SMALL_SHAPES[0], jnp.int8, jnp.bfloat16),
        (SMALL_SHAPES[1], jnp.float8_e4m3fn, jnp.float32),
        (SMALL_SHAPES[2], jnp.float8_e4m3fn, jnp.bfloat16),
        (SMALL_SHAPES[3], jnp.int8, jnp.float32),
        *on_a_gpu_alone(*itertools.product(SHAPES.values(), DTYPES, BOUNDS)),
    ],
    ids=str,
)
def test_kernels_attend_to_what_the_cache_holds(rng, shape, quantized, dtype):
    for queries in (None, QUERY_LENGTHS):
        case = in_8_bits(make_case(rng, shape, LENGTHS, 16, queries, num_padding_tokens=5), quantized)
        assert relative_error(run(case, "pallas", dtype), oracle(case, dtype)) < BOUNDS[dtype]


@pytest.mark.parametrize("page_size", [6, *on_a_gpu_alone((1,), (2,), (8,), (64,))])
@pytest.mark.parametrize("quantized", [jnp.int8, *on_a_gpu_alone((jnp.float8_e4m3fn,))], ids=jnp.dtype)
def test_any_page_size_split_and_packing(rng, page_size, quantized):
    shape = AttentionShape(6, 3, 16, sliding_window=40)
    options = {"interpret": should_interpret(None)}
    case = in_8_bits(make_case(rng, shape, LENGTHS, page_size), quantized)
    blocks = DecodeBlocks(2, 8, 3, num_warps=4, num_stages=2)
    got = decode_triton.decode(*case.arguments(jnp.float32), **case.keywords(), blocks=blocks, **options)
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]
    case = in_8_bits(make_case(rng, shape, LENGTHS, page_size, QUERY_LENGTHS), quantized)
    blocks = ExtendBlocks(8, 16, 2, num_warps=4, num_stages=2)
    got = extend_triton.extend(*case.arguments(jnp.float32), **case.keywords(), blocks=blocks, **options)
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]


def test_a_mixed_batch(rng):
    """Its decode rows take decode's kernel, and the others extend's."""
    query_lengths, lengths = [1, 1, 1, 7, 0, 12], [1, 16, 40, 9, 0, 33]
    case = make_case(rng, AttentionShape(8, 2, 64), lengths, 16, query_lengths, num_padding_tokens=6)
    case = in_8_bits(case, jnp.int8)
    attend = compiled(extend, options=case.options, implementation="pallas")
    got = attend(*case.arguments(jnp.float32), num_decode_rows=jnp.int32(3))
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]


@pytest.mark.parametrize("size", [1e-3, 1e3])
@pytest.mark.parametrize("quantized", DTYPES, ids=jnp.dtype)
def test_weights_times_scales_fit_into_float16(rng, quantized, size):
    """Of values that are small or large, and of many positions that weigh little each."""
    case = make_case(rng, AttentionShape(4, 1, 32), [300, 500], 16)
    for x in (case.kv_pages[1], *(dense[1] for dense in case.dense)):
        x *= size
    case = in_8_bits(case, quantized)
    dtype = jnp.bfloat16
    assert relative_error(run(case, "pallas", dtype), oracle(case, dtype)) < BOUNDS[dtype]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [0, 1], ids=["key", "value"])
@pytest.mark.parametrize("quantized", DTYPES, ids=jnp.dtype)
def test_what_is_not_finite_is_seen(rng, quantized, kind, bad):
    """By the row that has it and by no other."""
    shape, num_kv_heads = AttentionShape(4, 2, 16), 2
    paged = in_8_bits(make_case(rng, shape, [5, 9], 4), quantized)
    heads = rng.standard_normal((2, shape.num_heads + 2 * num_kv_heads, shape.head_dim), np.float32)
    heads[0, shape.num_heads + kind * num_kv_heads :][:num_kv_heads, 3] = bad
    out = {name: appended(paged, heads, name)[0] for name in ("pallas", "reference")}
    for attended in out.values():
        assert not np.isfinite(attended[0]).any()
        assert np.isfinite(attended[1]).all()


def appended(
    paged: PagedCase, heads: np.ndarray, implementation: str, **fixed: jnp.ndarray | int
) -> tuple[np.ndarray, QuantizedKVPages]:
    append = compiled(append_and_decode, options=paged.options, implementation=implementation)
    _, *cache_and_rows = paged.arguments(jnp.float32)
    attended, pages = append(jnp.asarray(heads), *cache_and_rows, *angles(paged), **fixed)
    return np.asarray(attended), pages


def angles(paged: PagedCase) -> tuple[jnp.ndarray, jnp.ndarray]:
    angle = np.arange(len(paged.lengths) * paged.shape.head_dim // 2).reshape(len(paged.lengths), -1)
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


@pytest.mark.parametrize("is_fixed", [False, True], ids=["", "fixed"])
@pytest.mark.parametrize(
    ("quantized", "page_size", "implementation"),
    [
        *itertools.product(DTYPES, [1, 4, 64], ["reference"]),
        (jnp.int8, 4, "pallas"),
        (jnp.float8_e4m3fn, 64, "pallas"),
        *on_a_gpu_alone(*itertools.product(DTYPES, [1, 16], ["pallas"])),
    ],
    ids=str,
)
def test_a_token_attends_to_itself_as_the_cache_holds_it(rng, quantized, page_size, implementation, is_fixed):
    """Appended and decoded, or written and extended as the last token of a prompt: the cache is the same to
    the bit, and so is what it attends to but for the order of sums."""
    shape = AttentionShape(6, 3, 16, sliding_window=20)
    paged = in_8_bits(make_case(rng, shape, [1, 5, 17, 34], page_size), quantized)
    heads = rng.standard_normal((4, shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim), np.float32) * 3
    kv_scales = jnp.stack([jnp.full((2, 3), jnp.nan), jnp.array([[0.02, 0.05, 0.1], [0.1, 0.03, 0.01]])])
    fixed = {"kv_scales": kv_scales, "layer": 1} if is_fixed else {}
    attended, pages = appended(paged, heads, implementation, **fixed)

    _, kv_pages, page_table, lengths = paged.arguments(jnp.float32)
    position = paged.lengths - 1
    places = paged.page_table[np.arange(4), position // page_size], position % page_size
    write = compiled(rope_cache_write, implementation=implementation)
    q, written = write(jnp.asarray(heads), kv_pages, *angles(paged), *map(jnp.asarray, places), **fixed)
    for got, wanted in zip(jax.tree.leaves(pages), jax.tree.leaves(written), strict=True):
        np.testing.assert_array_equal(as_bytes(got), as_bytes(wanted))
    options = {"options": paged.options, "implementation": implementation}
    decoded = compiled(decode, **options)(q, written, page_table, lengths)
    extended = compiled(extend, **options)(q, written, page_table, jnp.arange(5, dtype=jnp.int32), lengths)
    assert relative_error(attended, decoded) < 3e-7
    assert relative_error(extended, decoded) < 3e-7


def as_bytes(array: jax.Array) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(array)).view(np.uint8)


@pytest.mark.parametrize("quantized", DTYPES, ids=jnp.dtype)
def test_a_donated_cache_is_written_in_place(rng, quantized):
    paged = in_8_bits(make_case(rng, AttentionShape(4, 2, 16), [3, 9], 4), quantized)
    heads = jnp.asarray(rng.standard_normal((2, 8, 16), np.float32))
    _, pages, *rows = paged.arguments(jnp.float32)
    append = functools.partial(append_and_decode, implementation="pallas")
    jax.jit(append, donate_argnums=1)(heads, pages, *rows, *angles(paged))
    assert pages.values.is_deleted()
    assert pages.scales.is_deleted()


def test_triton_proper_does_not_serve_it_and_says_so(rng):
    case = in_8_bits(make_case(rng, AttentionShape(4, 2, 64), [3, 4], 8), jnp.int8)
    with pytest.raises(UnsupportedError, match="reads KVPages, and not QuantizedKVPages; use 'pallas'"):
        decode(*case.arguments(jnp.bfloat16), implementation="jax-triton")


@pytest.mark.gpu
@pytest.mark.parametrize("quantized", DTYPES, ids=jnp.dtype)
@pytest.mark.parametrize("name", SHAPES)
def test_long_rows_on_a_gpu(rng, name, quantized):
    lengths = [0, 1, 255, 256, 4095, 4096, *rng.integers(1, 6000, 10).tolist()]
    query_lengths = [min(length, int(n)) for length, n in zip(lengths, rng.integers(0, 700, 16), strict=True)]
    for queries in (None, query_lengths):
        case = in_8_bits(
            make_case(rng, SHAPES[name], lengths, 16, queries, num_padding_tokens=100), quantized
        )
        error = relative_error(run(case, "pallas", jnp.bfloat16), run(case, "reference", jnp.bfloat16))
        assert error < BOUNDS[jnp.bfloat16]


def test_blocks_are_tuned_for_the_cache(rng):
    """A table of a plain cache says nothing of one in 8 bits, whose tiles have half the bytes."""
    case = make_case(rng, AttentionShape(4, 2, 16), [3, 9], 4)
    keys = []
    for paged in (case, in_8_bits(case, jnp.int8)):
        q, pages, page_table, _ = paged.arguments(jnp.bfloat16)
        keys.append(decode_key(DecodeCall.of(q, pages, page_table)))
    plain, quantized = keys
    assert "quantized" not in plain
    assert quantized == {**plain, "quantized": "int8"}
