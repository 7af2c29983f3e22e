"""Decode that takes in the new token: the same as `rope_cache_write` and `decode` in a row."""

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.kv_pages import KVPages
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.paged_attention import append_and_decode, decode
from pallas_kernels.paged_attention.append_and_decode import triton
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks
from pallas_kernels.paged_attention.shapes import AttentionShape
from pallas_kernels.rope_cache_write import rope_cache_write
from tests.pallas_kernels import paged_cases
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import PagedCase, relative_error

BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}  # relative error in the Euclidean norm
EPSILON = 1e-3  # large enough to matter
PAGE_SIZE = 4
LENGTHS = [0, 1, 4, 5, 17, 34]
SMALL = AttentionShape(8, 4, 8)
BLOCKS = DecodeBlocks(1, 16, 1, num_warps=4, num_stages=2)
NUM_LAYERS, LAYER = 3, 1


@dataclass(frozen=True, eq=False)
class AppendCase:
    """Rows whose newest position is not in the cache yet: it is NaN there, as is all that nobody may read."""

    paged: PagedCase
    heads: np.ndarray
    angles: np.ndarray
    scales: np.ndarray | None  # of queries and of keys: [2, head_dim], or stacks whose other layers are NaN
    interleaved: bool = False

    def arguments(self, dtype: jnp.dtype) -> list[jnp.ndarray | KVPages]:
        """What `append_and_decode` takes, in order."""
        _, *cache_and_rows = self.paged.arguments(dtype)
        return [jnp.asarray(self.heads, dtype), *cache_and_rows, *self.turns]

    @property
    def turns(self) -> tuple[jnp.ndarray, jnp.ndarray]:
        return jnp.asarray(np.cos(self.angles), jnp.float32), jnp.asarray(np.sin(self.angles), jnp.float32)

    def norm(self, dtype: jnp.dtype) -> dict:
        """The norm, where there is one, and its layer, where there are several."""
        if self.scales is None:
            return {}
        q_scale, k_scale = jnp.asarray(self.scales, dtype)
        layer = {} if q_scale.ndim == 1 else {"layer": LAYER}
        return {"q_scale": q_scale, "k_scale": k_scale, "epsilon": EPSILON, **layer}


def make_case(
    rng: np.random.Generator,
    shape: AttentionShape = SMALL,
    lengths: list[int] = LENGTHS,
    *,
    page_size: int = PAGE_SIZE,
    rotary_dim: int | None = None,
    norm: str | None = "stack",
    interleaved: bool = False,
) -> AppendCase:
    paged = paged_cases.make_case(rng, shape, lengths, page_size)
    page_ids, offsets, rows = places(paged)
    paged.kv_pages[:, page_ids[rows], offsets[rows]] = np.nan
    heads = rng.standard_normal(
        (len(lengths), shape.num_heads + 2 * shape.num_kv_heads, shape.head_dim), np.float32
    )
    angles = rng.uniform(-100, 100, (len(lengths), (rotary_dim or shape.head_dim) // 2))
    scales = None if norm is None else rng.standard_normal((2, shape.head_dim), np.float32)
    if norm == "stack":
        stack = np.full((2, NUM_LAYERS, shape.head_dim), np.nan, np.float32)
        stack[:, LAYER] = scales
        scales = stack
    return AppendCase(paged, heads, angles, scales, interleaved)


def places(paged: PagedCase) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The page and the offset of each row's last position, and which rows have one."""
    position, page_size = np.maximum(paged.lengths - 1, 0), paged.kv_pages.shape[2]
    page_ids = paged.page_table[np.arange(len(position)), position // page_size]
    return np.where(paged.lengths > 0, page_ids, 0), position % page_size, paged.lengths > 0


def scales_and_options(case: AppendCase, dtype: jnp.dtype) -> tuple:
    """The scales of queries and of keys, which may be None, and what else makes a norm."""
    norm = case.norm(dtype)
    return norm.pop("q_scale", None), norm.pop("k_scale", None), norm


def wanted(case: AppendCase, dtype: jnp.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The two references in a row. Rows without positions write to the null page, which is put back."""
    heads, kv_pages, page_table, lengths, *turns = case.arguments(dtype)
    page_ids, offsets, _ = (jnp.asarray(x) for x in places(case.paged))
    q_scale, k_scale, norm = scales_and_options(case, dtype)
    write = compiled(rope_cache_write, **norm, interleaved=case.interleaved, implementation="reference")
    q, written = write(heads, kv_pages, *turns, page_ids, offsets, q_scale=q_scale, k_scale=k_scale)
    attend = compiled(decode, options=case.paged.options, implementation="reference")
    attended = attend(q, written, page_table, lengths, sinks=case.paged.keywords()["sinks"])
    pages = written.array.at[:, 0].set(kv_pages.array[:, 0])
    return np.asarray(attended, np.float32), np.asarray(pages, np.float32)


def as_numpy(result: tuple[jnp.ndarray, KVPages]) -> tuple[np.ndarray, np.ndarray]:
    attended, kv_pages = result
    return np.array(attended, np.float32), np.array(kv_pages.array, np.float32)


def run(case: AppendCase, implementation: str, dtype=jnp.float32) -> tuple[np.ndarray, np.ndarray]:
    q_scale, k_scale, norm = scales_and_options(case, dtype)
    static = {"interleaved": case.interleaved, "options": case.paged.options}
    append = compiled(append_and_decode, **norm, **static, implementation=implementation)
    arrays = {"q_scale": q_scale, "k_scale": k_scale, "sinks": case.paged.keywords()["sinks"]}
    return as_numpy(append(*case.arguments(dtype), **arrays))


def run_blocks(case: AppendCase, blocks: DecodeBlocks) -> tuple[np.ndarray, np.ndarray]:
    """The Triton kernel with these blocks, in float32."""
    *arguments, cos, sin = case.arguments(jnp.float32)
    norm = case.norm(jnp.float32)
    layer = norm.pop("layer", None)
    result = triton.append_and_decode(
        *arguments,
        angles=(cos, sin),
        norm=tuple(norm.values()) or None,
        layer=layer,
        **case.paged.keywords(),
        blocks=blocks,
        interpret=should_interpret(None),
    )
    return as_numpy(result)


def check(case: AppendCase, got: tuple[np.ndarray, np.ndarray], dtype=jnp.float32) -> None:
    """Attention and the new positions are what is wanted, and nothing else of the cache changed."""
    (attended, kv_pages), (wanted_attended, wanted_pages) = got, wanted(case, dtype)
    assert relative_error(attended, wanted_attended) < BOUNDS[dtype]
    assert not attended[case.paged.lengths == 0].any(), "rows without positions give zeros"
    page_ids, offsets, rows = places(case.paged)
    new = slice(None), page_ids[rows], offsets[rows]
    assert relative_error(kv_pages[new][0], wanted_pages[new][0]) < BOUNDS[dtype]
    np.testing.assert_array_equal(kv_pages[new][1], wanted_pages[new][1], "values are copied")
    kv_pages = np.array(kv_pages)
    kv_pages[new] = wanted_pages[new]
    np.testing.assert_array_equal(kv_pages, wanted_pages, "nothing else is written")


SHAPES = [
    SMALL,
    AttentionShape(4, 4, 80),
    AttentionShape(6, 2, 96, sliding_window=5),
    AttentionShape(4, 1, 64, soft_cap=2.0),
    AttentionShape(7, 1, 64),
    AttentionShape(4, 2, 32, sliding_window=1),
    AttentionShape(6, 3, 16, sinks=True),
    AttentionShape(4, 2, 32, sliding_window=20, soft_cap=2.0, sinks=True),
]
INTERPRETED = (1, 2, 4, 7)  # on a CPU, in ten seconds each: those whose features no other test here has


@pytest.mark.parametrize("norm", [None, "one layer", "stack"])
@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_is_a_write_and_a_decode(rng, implementation, norm):
    case = make_case(rng, AttentionShape(8, 2, 32), norm=norm)
    check(case, run(case, implementation))


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, marks=() if i in INTERPRETED else pytest.mark.gpu)
        for i, shape in enumerate(SHAPES)
    ],
    ids=str,
)
def test_any_shape(rng, shape):
    case = make_case(rng, shape)
    check(case, run(case, "pallas"))


@pytest.mark.parametrize(
    "shape",
    [pytest.param(AttentionShape(8, 2, 128), marks=pytest.mark.gpu), AttentionShape(14, 2, 64)],
    ids=str,
)
def test_in_bfloat16(rng, shape):
    case = make_case(rng, shape, page_size=16)
    check(case, run(case, "pallas", jnp.bfloat16), jnp.bfloat16)


@pytest.mark.parametrize(
    ("head_dim", "rotary_dim"), [pytest.param(32, 4, marks=pytest.mark.gpu), (32, 12), (40, 32)]
)
def test_a_part_of_a_head_is_rotated(rng, head_dim, rotary_dim):
    case = make_case(rng, AttentionShape(4, 2, head_dim), rotary_dim=rotary_dim)
    check(case, run(case, "pallas"))


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
@pytest.mark.parametrize(("head_dim", "rotary_dim", "norm"), [(32, 32, None), (40, 12, "stack")])
def test_pairs_may_lie_side_by_side(rng, head_dim, rotary_dim, norm, implementation):
    shape = AttentionShape(4, 2, head_dim)
    case = make_case(rng, shape, rotary_dim=rotary_dim, norm=norm, interleaved=True)
    check(case, run(case, implementation))


SPLITS = [(1, 2), (1, 4), (2, 1), (3, 2), (7, 4)]
# Each number of splits and each packing once.
INTERPRETED_SPLITS = [(SMALL, (1, 4)), (SMALL, (2, 1)), (SHAPES[6], (3, 2)), (SMALL, (7, 4))]


@pytest.mark.parametrize(
    ("shape", "num_splits", "kv_heads"),
    [
        pytest.param(shape, *split, marks=() if (shape, split) in INTERPRETED_SPLITS else pytest.mark.gpu)
        for shape in (SMALL, SHAPES[2], SHAPES[6])
        for split in SPLITS
    ],
    ids=str,
)
def test_any_split_and_packing(rng, shape, num_splits, kv_heads):
    """Also where a split has the new position and no other, and with more heads a program than there are."""
    case = make_case(rng, shape)
    check(
        case, run_blocks(case, replace(BLOCKS, kv_heads=kv_heads, tile=16 // kv_heads, num_splits=num_splits))
    )


@pytest.mark.parametrize("page_size", [1, 3])
def test_any_page_size(rng, page_size):
    case = make_case(rng, page_size=page_size)
    check(case, run(case, "pallas"))


def test_random_lengths_up_to_a_full_page_table(rng):
    """Nothing is read behind the last entry of the table, which the longest row fills."""
    lengths = [*rng.integers(0, 97, 5).tolist(), 96]
    case = make_case(rng, AttentionShape(6, 3, 16, sliding_window=40), lengths, page_size=8)
    full = replace(case.paged, page_table=case.paged.page_table[:, : 96 // 8])
    check(replace(case, paged=full), run(replace(case, paged=full), "pallas"))


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
def test_a_donated_cache_is_written_in_place(rng, implementation):
    case = make_case(rng)
    heads, kv_pages, *rest = case.arguments(jnp.float32)
    append = functools.partial(append_and_decode, **case.norm(jnp.float32), implementation=implementation)
    check(case, as_numpy(jax.jit(append, donate_argnums=1)(heads, kv_pages, *rest)))
    assert kv_pages.array.is_deleted()


def test_all_layers_share_a_kernel(rng):
    """Were the layer a number in it, a model would trace and compile a kernel for each."""
    case = make_case(rng)
    heads, kv_pages, *rest = case.arguments(jnp.float32)
    norm = case.norm(jnp.float32)

    def stack(kv_pages):
        for layer in range(NUM_LAYERS):
            options = {**norm, "layer": layer, "implementation": "pallas"}
            _, kv_pages = append_and_decode(heads, kv_pages, *rest, **options)
        return kv_pages

    calls = [eqn for eqn in jax.make_jaxpr(stack)(kv_pages).jaxpr.eqns if "jaxpr" in eqn.params]
    assert len(calls) == NUM_LAYERS
    assert len({id(eqn.params["jaxpr"]) for eqn in calls}) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*SHAPES, AttentionShape(32, 8, 128), AttentionShape(8, 4, 256)], ids=str)
def test_long_rows_on_a_gpu(rng, shape):
    lengths = [0, 1, 255, 256, 257, 4096, 4097, *rng.integers(1, 6000, 9).tolist()]
    case = make_case(rng, shape, lengths, page_size=16)
    check(case, run(case, "pallas", jnp.bfloat16), jnp.bfloat16)


def test_shapes_that_contradict_each_other_are_errors(rng):
    heads, kv_pages, page_table, lengths, cos, sin = make_case(rng, lengths=[3, 4]).arguments(jnp.float32)
    with pytest.raises(
        ValueError, match=r"lengths has shape \(1,\), but heads has one token of each of 2 rows"
    ):
        append_and_decode(heads, kv_pages, page_table[:1], lengths[:1], cos, sin)
    with pytest.raises(ValueError, match="page_table has 1 rows and lengths 2"):
        append_and_decode(heads, kv_pages, page_table[:1], lengths, cos, sin)
    with pytest.raises(ValueError, match=r"cos has shape \(1, 4\) and sin \(2, 4\)"):
        append_and_decode(heads, kv_pages, page_table, lengths, cos[:1], sin)
    with pytest.raises(ValueError, match="7 query heads cannot share 4 KV heads"):
        append_and_decode(heads[:, 1:], kv_pages, page_table, lengths, cos, sin)
    with pytest.raises(ValueError, match="q_scale, k_scale and epsilon; give all three"):
        append_and_decode(heads, kv_pages, page_table, lengths, cos, sin, q_scale=jnp.ones(8), epsilon=1e-6)
    with pytest.raises(ValueError, match=r"sinks has shape \(3,\), but 8 query heads"):
        append_and_decode(heads, kv_pages, page_table, lengths, cos, sin, sinks=jnp.zeros(3))
    with pytest.raises(UnsupportedError, match="heads in bfloat16 and a cache in float32"):
        append_and_decode(heads.astype(jnp.bfloat16), kv_pages, page_table, lengths, cos, sin)
