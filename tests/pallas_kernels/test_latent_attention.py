"""Both implementations of latent attention: the reference against the definition, Pallas against the
reference."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.latent_attention import LatentPages, mla
from pallas_kernels.latent_attention.shapes import SHAPES, LatentShape
from pallas_kernels.latent_attention.triton import mla as mla_on_triton
from pallas_kernels.latent_attention.tuning import (
    PROGRAM_SHARED_MEMORY_BYTES,
    MlaBlocks,
    MlaCall,
    mla_blocks,
    mla_candidates,
    shared_memory_bytes,
)
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.h200 import compiler_process, what_is_missing
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import every_nth

BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}  # relative error in the Euclidean norm
TINY = SHAPES["tiny"]
LENGTHS = [0, 1, 16, 17, 63, 90]
INTERPRETED = [  # the others are slow, and alike
    ("tiny", jnp.float32),
    ("tiny", jnp.bfloat16),
    ("minicpm3-4b", jnp.float32),
    ("deepseek-v2-lite", jnp.bfloat16),
]
CASES = [
    pytest.param(
        name,
        dtype,
        id=f"{name}-{dtype.__name__}",
        marks=() if (name, dtype) in INTERPRETED else pytest.mark.gpu,
    )
    for name in SHAPES
    for dtype in BOUNDS
]


@dataclass(frozen=True, eq=False)
class LatentCase:
    """Rows of the given lengths in permuted pages; every other element of the cache is NaN."""

    shape: LatentShape
    q: np.ndarray  # [rows, num_heads, latent_dim + rope_dim]
    kv_pages: np.ndarray
    page_table: np.ndarray
    lengths: np.ndarray
    dense: list[np.ndarray]  # [length, latent_dim + rope_dim] of each row

    def arguments(self, dtype) -> list[jax.Array | LatentPages]:
        q, latent_dim = jnp.asarray(self.q, dtype), self.shape.latent_dim
        parts = q[..., :latent_dim], q[..., latent_dim:]
        return [
            *parts,
            LatentPages(jnp.asarray(self.kv_pages, dtype)),
            jnp.asarray(self.page_table),
            jnp.asarray(self.lengths),
        ]


def make_case(rng: np.random.Generator, shape: LatentShape, lengths: list[int], page_size: int) -> LatentCase:
    """Entries of the page table that no row needs point outside the cache."""
    dim, rows, max_pages = shape.latent_dim + shape.rope_dim, len(lengths), -(-max(lengths) // page_size) + 1
    page_ids = rng.permutation(rows * max_pages).reshape(rows, max_pages).astype(np.int32)
    kv_pages = np.full((rows * max_pages, page_size, dim), np.nan, np.float32)
    dense = [rng.standard_normal((length, dim), np.float32) for length in lengths]
    for row, values in enumerate(dense):
        position = np.arange(len(values))
        kv_pages[page_ids[row, position // page_size], position % page_size] = values
    needed = np.arange(max_pages) < -(-np.array(lengths)[:, None] // page_size)
    page_table = np.where(needed, page_ids, np.int32(2**30))
    q = rng.standard_normal((rows, shape.num_heads, dim), np.float32)
    return LatentCase(shape, q, kv_pages, page_table, np.array(lengths, np.int32), dense)


def oracle(case: LatentCase, soft_cap: float | None) -> np.ndarray:
    """The definition, in float64 over the dense rows."""
    out = np.zeros((*case.q.shape[:2], case.shape.latent_dim))
    for row, values in enumerate(case.dense):
        if not len(values):
            continue
        scores = case.shape.scale * case.q[row].astype(np.float64) @ values.astype(np.float64).T
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[row] = weights @ values[:, : case.shape.latent_dim] / weights.sum(-1, keepdims=True)
    return out


def run(case: LatentCase, implementation: str, dtype, soft_cap: float | None = None) -> np.ndarray:
    attend = compiled(mla, scale=case.shape.scale, soft_cap=soft_cap, implementation=implementation)
    got = attend(*case.arguments(dtype))
    assert got.dtype == dtype
    return np.asarray(got, np.float32)


def run_with(
    case: LatentCase,
    blocks: MlaBlocks,
    dtype,
    soft_cap: float | None = None,
    row_ids: jax.Array | None = None,
) -> np.ndarray:
    interpret = jax.default_backend() != "gpu"
    attend = functools.partial(mla_on_triton, blocks=blocks, interpret=interpret)
    q_latent, q_rope, kv_pages, *rows = case.arguments(dtype)
    options = {"scale": case.shape.scale, "soft_cap": soft_cap, "row_ids": row_ids}
    out = attend(q_latent, q_rope, kv_pages.array, *rows, **options)
    return np.asarray(out, np.float32)


@pytest.mark.parametrize(
    ("name", "page_size", "soft_cap"), [("tiny", 1, 2.0), ("tiny", 4, None), ("minicpm3-4b", 16, 2.0)]
)
def test_reference_is_the_definition(rng, name, page_size, soft_cap):
    case = make_case(rng, SHAPES[name], LENGTHS, page_size)
    assert relative_error(run(case, "reference", jnp.float32, soft_cap), oracle(case, soft_cap)) < 1e-6


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_agrees_with_the_reference(rng, name, dtype):
    case = make_case(rng, SHAPES[name], LENGTHS, 16)
    assert relative_error(run(case, "pallas", dtype), run(case, "reference", dtype)) < BOUNDS[dtype]


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_queries_name_their_rows(rng, implementation):
    """Several of a row, each of its own length, and one of none."""
    case = make_case(rng, TINY, [17, 40], 16)
    row_ids, lengths = np.array([0, 0, 1, 1, 1], np.int32), np.array([17, 5, 39, 40, 0], np.int32)
    q = rng.standard_normal((5, *case.q.shape[1:]), np.float32)
    dense = [case.dense[row][:length] for row, length in zip(row_ids, lengths, strict=True)]
    queries = dataclasses.replace(case, q=q, lengths=lengths, dense=dense)
    attend = compiled(mla, scale=TINY.scale, implementation=implementation)
    got = attend(*queries.arguments(jnp.float32), row_ids=jnp.asarray(row_ids))
    assert relative_error(np.asarray(got), oracle(queries, None)) < BOUNDS[jnp.float32]


@pytest.mark.parametrize(("num_heads", "tokens"), [(16, 4), (20, 2), (5, 4)])
def test_tokens_of_a_prompt_in_one_program(rng, num_heads, tokens):
    """Blocks of one row and of several, queries that see less than others, and padding at the end."""
    shape = LatentShape(num_heads, 64, 16, 48)
    rows = [*range(3, 12), *range(1, 6), 20, *range(60, 66)]  # the positions that each token sees
    counts, case = [9, 5, 1, 6], make_case(rng, shape, [11, 5, 20, 65], 4)
    row_ids = np.array([*np.repeat(np.arange(4), counts), 3, 3], np.int32)
    lengths = np.array([*rows, 0, 0], np.int32)
    dense = [case.dense[row][:length] for row, length in zip(row_ids, lengths, strict=True)]
    q = rng.standard_normal((len(lengths), num_heads, 80), np.float32)
    queries = dataclasses.replace(case, q=q, lengths=lengths, dense=dense)
    heads = max(16, 1 << (num_heads - 1).bit_length())
    blocks = MlaBlocks(heads, 16, 1, num_warps=4, num_stages=3, early_loads=False, tokens=tokens)
    got = run_with(queries, blocks, jnp.float32, row_ids=jnp.asarray(row_ids))
    assert relative_error(got, oracle(queries, None)) < BOUNDS[jnp.float32]


@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_any_page_size(rng, page_size):
    case = make_case(rng, TINY, LENGTHS, page_size)
    got, wanted = (
        run(case, implementation, jnp.float32, soft_cap=2.0) for implementation in ("pallas", "reference")
    )
    assert relative_error(got, wanted) < BOUNDS[jnp.float32]


@pytest.mark.parametrize(
    "blocks",
    [
        MlaBlocks(heads=16, tile=16, num_splits=1, num_warps=4, num_stages=3, early_loads=False),
        MlaBlocks(heads=32, tile=32, num_splits=2, num_warps=8, num_stages=3, early_loads=False),
        MlaBlocks(heads=64, tile=32, num_splits=1, num_warps=8, num_stages=3, early_loads=True),
        MlaBlocks(heads=64, tile=64, num_splits=3, num_warps=8, num_stages=3, early_loads=True),
    ],
    ids=lambda blocks: "-".join(map(str, vars(blocks).values())),
)
def test_any_blocks(rng, blocks):
    """Head blocks that are not full, rows of fewer tiles than splits, masked last tiles."""
    case = make_case(rng, LatentShape(20, 64, 16, 48), [*LENGTHS, 200], 16)
    dtype = jnp.bfloat16 if blocks.early_loads else jnp.float32
    got, wanted = run_with(case, blocks, dtype, soft_cap=2.0), run(case, "reference", dtype, soft_cap=2.0)
    assert relative_error(got, wanted) < BOUNDS[dtype]
    assert not got[0].any(), "a row of length 0 gives zeros"


def test_scores_far_from_zero(rng):
    """The running maximum is found anew in each tile, and neither overflows nor loses what came before."""
    case = make_case(rng, TINY, [64, 64], 16)
    case.q[:] *= 30
    blocks = MlaBlocks(heads=16, tile=16, num_splits=2, num_warps=4, num_stages=3, early_loads=False)
    assert relative_error(run_with(case, blocks, jnp.float32), oracle(case, None)) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
def test_candidates_on_a_gpu(rng, name):
    """What a sweep may choose, over lengths that interpret mode is too slow for."""
    case = make_case(rng, SHAPES[name], [0, 1, 255, 256, 4095, 4096, *rng.integers(1, 6000, 10).tolist()], 16)
    wanted = run(case, "reference", jnp.bfloat16)
    assert relative_error(run(case, "pallas", jnp.bfloat16), wanted) < BOUNDS[jnp.bfloat16]
    for blocks in every_nth(mla_candidates(call_of(SHAPES[name], 16, 6016)), 3, rng):
        assert relative_error(run_with(case, blocks, jnp.bfloat16), wanted) < BOUNDS[jnp.bfloat16], blocks


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["deepseek-v2-lite", "deepseek-v3-quarter", "deepseek-v3"])
def test_many_tokens_of_prompts_on_a_gpu(rng, name):
    """So many that those of few heads share programs: two chunks behind a prefix, rows of one token, and
    padding."""
    counts, shape = [1] * 9 + [500, 290], SHAPES[name]
    ends = np.array([*rng.integers(1, 900, 9), 1300, 290])
    case = make_case(rng, shape, ends.tolist(), 16)
    rows = [np.arange(end - count, end) + 1 for end, count in zip(ends, counts, strict=True)]
    row_ids = np.array([*np.repeat(np.arange(len(counts)), counts), 10, 10], np.int32)
    lengths = np.concatenate([*rows, [0, 0]]).astype(np.int32)
    q = rng.standard_normal((len(lengths), *case.q.shape[1:]), np.float32)
    arguments = dataclasses.replace(case, q=q, lengths=lengths).arguments(jnp.bfloat16)
    options = {"scale": shape.scale, "row_ids": jnp.asarray(row_ids)}
    got, wanted = (
        np.asarray(mla(*arguments, **options, implementation=each), np.float32)
        for each in ("pallas", "reference")
    )
    assert relative_error(got, wanted) < BOUNDS[jnp.bfloat16]


def call_of(shape: LatentShape, rows: int, max_positions: int, itemsize: int = 2) -> MlaCall:
    return MlaCall(
        rows=rows,
        num_heads=shape.num_heads,
        latent_dim=shape.latent_dim,
        rope_dim=shape.rope_dim,
        page_size=16,
        max_positions=max_positions,
        itemsize=itemsize,
    )


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("rows", [1, 64, 256])
@pytest.mark.parametrize("name", SHAPES)
def test_blocks_fit_and_splits_are_not_idle(name, rows, itemsize):
    call = call_of(SHAPES[name], rows, 4096, itemsize)
    candidates = mla_candidates(call)
    assert mla_blocks(call) in candidates
    assert len(candidates) == len(set(candidates)) <= 60
    for blocks in candidates:
        assert shared_memory_bytes(blocks, call.cache_dim, itemsize) <= PROGRAM_SHARED_MEMORY_BYTES
        assert blocks.num_splits * blocks.tile <= 4096


@pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or "")
def test_64_heads_compile_for_an_h200_without_waste():
    """Each score is computed once, each tile is loaded once, and it is not overwritten while it is in use."""
    rows, heads, max_pages = 64, 128, 256
    arrays = [(rows, heads, 512), (rows, heads, 64), (rows * max_pages, 16, 576)]
    *queries, pages = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in arrays)
    arguments = [*queries, LatentPages(pages)]
    arguments += [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((rows, max_pages), (rows,))]
    with compiler_process() as compile_for_h200:
        attend = functools.partial(mla, scale=0.1, implementation="pallas", interpret=False)
        (kernel,) = compile_for_h200(attend, *arguments).kernels
    assert kernel.num_wgmma == 576 // 16 + 64 // 16, (
        "the scores, 32 of 64 columns a warp group, and the values"
    )
    assert kernel.num_mma == kernel.spill_bytes == 0
    assert kernel.shared_memory_bytes > 2 * (64 + 2 * 64) * 576, "the queries and two tiles"


def test_what_contradicts_itself_is_an_error(rng):
    q_latent, q_rope, kv_pages, page_table, lengths = make_case(rng, TINY, [3, 4], 4).arguments(jnp.float32)
    rest = kv_pages, page_table, lengths
    with pytest.raises(ValueError, match="64 latent and 8 rotary dimensions and the cache 80"):
        mla(q_latent, q_rope[..., :8], *rest, scale=1.0)
    with pytest.raises(ValueError, match=r"q_latent \(2, 4, 64\) and q_rope \(2, 3, 16\) must have the same"):
        mla(q_latent, q_rope[:, :3], *rest, scale=1.0)
    with pytest.raises(ValueError, match="q_latent has 2 rows, page_table 1 and lengths 2"):
        mla(q_latent, q_rope, kv_pages, page_table[:1], lengths, scale=1.0)
    with pytest.raises(ValueError, match="q_latent has 2 rows, row_ids 3 and lengths 2"):
        mla(q_latent, q_rope, *rest, scale=1.0, row_ids=jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match=r"scale=0.0 must be positive"):
        mla(q_latent, q_rope, *rest, scale=0.0)
    with pytest.raises(ValueError, match=r"soft_cap=-1.0 must be positive; None means no cap"):
        mla(q_latent, q_rope, *rest, scale=1.0, soft_cap=-1.0)


def test_what_the_kernel_cannot_do_is_said(rng):
    q_latent, q_rope, *rest = make_case(rng, TINY, [3, 4], 4).arguments(jnp.float32)
    with pytest.raises(UnsupportedError, match="bfloat16 and float32 over a cache in float32"):
        mla(q_latent.astype(jnp.bfloat16), q_rope, *rest, scale=1.0)
    case = make_case(rng, LatentShape(4, 48, 16, 48), [3, 4], 4)
    with pytest.raises(UnsupportedError, match="48 latent dimensions: the kernel takes powers of two"):
        run(case, "pallas", jnp.float32)
    assert relative_error(run(case, "reference", jnp.float32), oracle(case, None)) < 1e-6
    early = MlaBlocks(heads=16, tile=16, num_splits=1, num_warps=4, num_stages=3, early_loads=True)
    with pytest.raises(ValueError, match="early_loads with 16 heads of bfloat16 a program"):
        run_with(make_case(rng, TINY, [3], 4), early, jnp.bfloat16)
