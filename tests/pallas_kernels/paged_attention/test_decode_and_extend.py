"""Both implementations of paged attention against the definition, in float64.

Interpret mode does not compare Pallas with the reference: compiling that takes as long as compiling a kernel,
and running it for many heads longer.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.paged_attention import AttentionOptions, decode, extend
from pallas_kernels.paged_attention.decode import triton as decode_triton
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks
from pallas_kernels.paged_attention.extend import triton as extend_triton
from pallas_kernels.paged_attention.extend.tuning import ExtendBlocks
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import PagedCase, make_case, oracle, relative_error

BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}  # relative error in the Euclidean norm
SMALL_SHAPES = [
    AttentionShape(8, 4, 8),
    AttentionShape(4, 4, 80),
    AttentionShape(6, 2, 96, sliding_window=5),
    AttentionShape(4, 1, 64, soft_cap=2.0),
    AttentionShape(4, 2, 32, sliding_window=20, soft_cap=2.0),
    AttentionShape(6, 3, 16, sinks=True),
    AttentionShape(4, 2, 32, sliding_window=20, sinks=True),
]
# Interpret mode runs every shape, in one dtype each.
INTERPRETED_IN_BFLOAT16 = (
    "phi-3.5-mini",
    "llama-3.1-8b",
    "gemma-2-2b-local",
)
CASES = [
    pytest.param(name, dtype, id=f"{name}-{dtype.__name__}", marks=() if is_interpreted else pytest.mark.gpu)
    for name in SHAPES
    for dtype in BOUNDS
    for its_dtype in [jnp.bfloat16 if name in INTERPRETED_IN_BFLOAT16 else jnp.float32]
    for is_interpreted in [dtype == its_dtype]
]
LENGTHS = [0, 1, 15, 16, 17, 32, 90]
QUERY_LENGTHS = [0, 1, 3, 16, 5, 31, 40]


def splits_of_shapes(num_splits: Sequence[int], packing: Sequence[int]) -> list:
    """All combinations of a small shape, a number of splits and a packing.

    Interpret mode runs two of each shape: one program a row, and one of the other numbers of splits, with
    packings in turn.
    """
    whole, *others = num_splits
    interpreted = set()
    for i in range(len(SMALL_SHAPES)):
        interpreted.add((i, whole, packing[i % len(packing)]))
        interpreted.add((i, others[i % len(others)], packing[(i + i // len(others)) % len(packing)]))
    return [
        pytest.param(shape, n, pack, marks=() if (i, n, pack) in interpreted else pytest.mark.gpu)
        for (i, shape), n, pack in itertools.product(enumerate(SMALL_SHAPES), num_splits, packing)
    ]


def run(case: PagedCase, implementation: str, dtype) -> np.ndarray:
    function = decode if case.query_starts is None else extend
    attend = compiled(function, options=case.options, implementation=implementation)
    return np.asarray(attend(*case.arguments(dtype), sinks=case.keywords()["sinks"]), np.float32)


def run_triton(case: PagedCase, dtype, blocks: DecodeBlocks | ExtendBlocks | None = None) -> np.ndarray:
    """The Triton kernels with these blocks, also where another would serve the call."""
    kernel = decode_triton.decode if case.query_starts is None else extend_triton.extend
    options = {"blocks": blocks, "interpret": should_interpret(None)}
    return np.asarray(kernel(*case.arguments(dtype), **case.keywords(), **options), np.float32)


@pytest.mark.parametrize(
    ("shape", "page_size"), list(zip(SMALL_SHAPES, itertools.cycle([1, 4, 16]), strict=False)), ids=str
)
def test_reference_is_the_definition(rng, shape, page_size):
    for query_lengths in (None, QUERY_LENGTHS):
        case = make_case(rng, shape, LENGTHS, page_size, query_lengths, num_padding_tokens=5)
        assert relative_error(run(case, "reference", jnp.float32), oracle(case)) < 1e-6


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_decode_is_the_definition(rng, name, dtype):
    case = make_case(rng, SHAPES[name], [*LENGTHS, 300], page_size=16)
    assert relative_error(run(case, "pallas", dtype), oracle(case, dtype)) < BOUNDS[dtype]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_extend_is_the_definition(rng, name, dtype):
    case = make_case(rng, SHAPES[name], LENGTHS, 16, QUERY_LENGTHS, num_padding_tokens=5)
    got = run(case, "pallas", dtype)
    assert relative_error(got, oracle(case, dtype)) < BOUNDS[dtype]
    assert not got[case.query_starts[-1] :].any(), "padding tokens give zeros"


@pytest.mark.parametrize(
    "shape", [AttentionShape(8, 2, 32), AttentionShape(6, 3, 16, sliding_window=20)], ids=str
)
def test_random_lengths_up_to_a_full_page_table(rng, shape):
    """Nothing is read behind the last entry of the table, which the longest rows fill."""
    page_size, most = 8, 96
    lengths = [0, 1, most, *rng.integers(0, most + 1, 4).tolist(), most]
    query_lengths = [int(rng.integers(0, min(length, 30) + 1)) for length in lengths]
    for queries in (None, query_lengths):
        case = make_case(rng, shape, lengths, page_size, queries, num_padding_tokens=3, spare_pages=0)
        assert relative_error(run(case, "pallas", jnp.float32), oracle(case)) < BOUNDS[jnp.float32]


@pytest.mark.parametrize(
    "page_size", [1, 6, 256, *(pytest.param(size, marks=pytest.mark.gpu) for size in (2, 8, 64))]
)
def test_any_page_size(rng, page_size):
    shape = AttentionShape(4, 2, 32, sliding_window=40)
    for query_lengths in (None, QUERY_LENGTHS):
        case = make_case(rng, shape, LENGTHS, page_size, query_lengths)
        assert relative_error(run(case, "pallas", jnp.float32), oracle(case)) < BOUNDS[jnp.float32]


def test_extend_of_one_token_each_is_decode(rng):
    shape, lengths = AttentionShape(8, 2, 64), [1, 16, 40]
    case = make_case(rng, shape, lengths, 16, query_lengths=[1, 1, 1])
    q, kv_pages, page_table, starts, rows = case.arguments(jnp.float32)
    one = decode(q, kv_pages, page_table, rows, implementation="pallas")
    many = extend(q, kv_pages, page_table, starts, rows, implementation="pallas")
    assert relative_error(one, many) < 1e-6


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
@pytest.mark.parametrize(
    "query_lengths", [[1, 1, 1, 7, 0, 12], [1, 1, 0, 0, 0, 0], [9, 5, 4, 0, 0, 0]], ids=str
)
def test_a_mixed_batch_is_an_extend_whose_first_rows_decode(rng, query_lengths, implementation):
    """Batches with chunks, without them, and without decode rows share one program, since the number of
    decode rows is an array."""
    shape, lengths = AttentionShape(8, 2, 64, sliding_window=20, sinks=True), [1, 16, 40, 9, 0, 33]
    padding = 28 - sum(query_lengths)
    lengths = np.maximum(lengths, query_lengths).tolist()
    case = make_case(rng, shape, lengths, 16, query_lengths, num_padding_tokens=padding)
    count = next(i for i, n in enumerate([*query_lengths, 0]) if n != 1)
    attend = compiled(extend, options=case.options, implementation=implementation)
    sinks = case.keywords()["sinks"]
    got = attend(*case.arguments(jnp.float32), sinks=sinks, num_decode_rows=jnp.int32(count))
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]
    assert not np.asarray(got)[case.query_starts[-1] :].any(), "padding tokens give zeros"


@pytest.mark.parametrize(
    ("shape", "num_splits", "kv_heads"), splits_of_shapes([1, 2, 3, 7], [1, 2, 4]), ids=str
)
def test_decode_with_any_split_and_packing(rng, shape, num_splits, kv_heads):
    """Also with more splits than some rows have tiles, and with more heads a program than there are."""
    case = make_case(rng, shape, LENGTHS, page_size=4)
    got = run_triton(
        case, jnp.float32, DecodeBlocks(kv_heads, 16 // kv_heads, num_splits, num_warps=4, num_stages=2)
    )
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]


@pytest.mark.parametrize(
    ("shape", "num_splits", "block_tokens"), splits_of_shapes([1, 2, 5], [4, 8]), ids=str
)
def test_extend_of_a_few_tokens_with_any_split(rng, shape, num_splits, block_tokens):
    """As many query tokens as speculative decoding verifies, also with a block that holds them all or only
    some."""
    lengths, query_lengths = [0, 8, 40, 17, 90, 3], [0, 8, 2, 5, 3, 3]
    case = make_case(rng, shape, lengths, 4, query_lengths, num_padding_tokens=3)
    got = run_triton(case, jnp.float32, ExtendBlocks(block_tokens, 16, num_splits, num_warps=4, num_stages=2))
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]
    assert not got[case.query_starts[-1] :].any(), "padding tokens give zeros"


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_a_sink_takes_its_share(rng, implementation):
    """A sink as high as all scores together halves the values; one far above leaves nothing, one far below
    all."""
    shape = AttentionShape(4, 2, 16, sinks=True)
    case = make_case(rng, shape, [1, 1], 4)
    case.q[:] = 0  # every score is 0
    values = np.stack([np.repeat(dense[1, 0], 2, axis=0) for dense in case.dense])
    for sink, share in ((0.0, 0.5), (90.0, 0.0), (-90.0, 1.0), (-np.inf, 1.0)):
        case.sinks[:] = sink
        np.testing.assert_allclose(run(case, implementation, jnp.float32), values * share, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_long_rows_on_a_gpu(rng, name):
    """Splits, many tiles, windows that begin in the middle: sizes that interpret mode is too slow for."""
    lengths = [0, 1, 255, 256, 4095, 4096, *rng.integers(1, 6000, 10).tolist()]
    query_lengths = [min(length, int(n)) for length, n in zip(lengths, rng.integers(0, 700, 16), strict=True)]
    for queries in (None, query_lengths):
        case = make_case(rng, SHAPES[name], lengths, 16, queries, num_padding_tokens=100)
        error = relative_error(run_triton(case, jnp.bfloat16), run(case, "reference", jnp.bfloat16))
        assert error < BOUNDS[jnp.bfloat16]


def test_shapes_that_contradict_each_other_are_errors(rng):
    case = make_case(rng, AttentionShape(4, 2, 32), [3, 4], 4)
    q, kv_pages, page_table, lengths = case.arguments(jnp.float32)
    with pytest.raises(ValueError, match="head_dim 16 and the cache 32"):
        decode(q[..., :16], kv_pages, page_table, lengths)
    with pytest.raises(ValueError, match="3 query heads cannot share 2 KV heads"):
        decode(q[:, :3], kv_pages, page_table, lengths)
    with pytest.raises(ValueError, match="page_table has 1 rows and lengths 2"):
        decode(q, kv_pages, page_table[:1], lengths)
    with pytest.raises(ValueError, match="2 rows need one more"):
        extend(q, kv_pages, page_table, lengths, lengths)
    with pytest.raises(ValueError, match=r"sinks has shape \(3,\), but 4 query heads"):
        decode(q, kv_pages, page_table, lengths, sinks=jnp.zeros(3))
    with pytest.raises(ValueError, match="1 tokens cannot be those of 2 rows"):
        extend(q[:1], kv_pages, page_table, jnp.arange(3), lengths, num_decode_rows=jnp.int32(2))
    with pytest.raises(UnsupportedError, match="bfloat16 over a cache in float32"):
        decode(q.astype(jnp.bfloat16), kv_pages, page_table, lengths)


def test_options_are_validated():
    with pytest.raises(ValueError, match="sliding_window=0: a window holds at least 1"):
        AttentionOptions(sliding_window=0)
    with pytest.raises(ValueError, match=r"scale=-1 must be positive"):
        AttentionOptions(scale=-1)
    with pytest.raises(ValueError, match=r"soft_cap=0.0 must be positive"):
        AttentionOptions(soft_cap=0.0)
