"""Groups of rows, and products with the matrices of their groups, against the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.gating import ClampedSwiglu
from pallas_kernels.core.weights import Int8Weight
from pallas_kernels.grouped_matmul import group_rows, grouped_matmul, triton, tuning
from pallas_kernels.grouped_matmul.contract import GroupedFusion
from pallas_kernels.grouped_matmul.shapes import SHAPES
from pallas_kernels.grouped_matmul.tuning import GroupedBlocks, GroupedCall
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import relative_error
from tests.pallas_kernels.some import every_nth
from tests.pallas_kernels.test_experts import gated

LAYERS, LAYER = 2, 1
BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 4e-3}

implementations = pytest.mark.parametrize("implementation", ["reference", "triton"])


def rows_of_blocks(groups):
    """The rows of each block that has some, with its group."""
    if groups.row_ids is None:
        return [(group, [row]) for row, group in enumerate(np.asarray(groups.group_of_block).tolist())]
    ids, places = np.asarray(groups.row_ids), np.arange(groups.num_blocks) * groups.block_rows
    facts = zip(np.asarray(groups.group_of_block).tolist(), np.asarray(groups.sizes), places, strict=True)
    return [(group, ids[at : at + size].tolist()) for group, size, at in facts if size]


def wanted_blocks(group_ids, num_groups, block_rows):
    return [
        (group, rows[at : at + block_rows])
        for group in range(num_groups)
        for rows in [np.flatnonzero(group_ids == group).tolist()]
        for at in range(0, len(rows), block_rows)
    ]


@implementations
@pytest.mark.parametrize("block_rows", [16, 64])
@pytest.mark.parametrize(("num_rows", "num_groups"), [(1, 1), (24, 5), (300, 40), (2500, 7)])
def test_rows_are_sorted_into_blocks_of_one_group(rng, num_rows, num_groups, block_rows, implementation):
    group = compiled(group_rows, num_groups=num_groups, block_rows=block_rows, implementation=implementation)
    few = rng.integers(0, max(1, num_groups // 4), num_rows)  # and most groups have none
    for ids in (rng.integers(-1, num_groups + 1, num_rows), few):
        groups = group(jnp.asarray(ids, jnp.int32))
        assert groups.num_blocks == num_rows // block_rows + min(num_groups, num_rows)
        assert rows_of_blocks(groups) == wanted_blocks(ids, num_groups, block_rows)


def random_case(rng, num_x, rows_each, num_groups, num_in, num_out, dtype):
    """x, the stack, of which NaN is all but one layer, and the ids."""

    def array(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    w = jnp.full((LAYERS, num_groups, num_in, num_out), jnp.nan, dtype)
    w = w.at[LAYER].set(array(num_groups, num_in, num_out) * num_in**-0.5)
    ids = rng.integers(0, num_groups, num_x * rows_each)
    return array(num_x, num_in), w, jnp.asarray(ids, jnp.int32)


def definition(x, w, ids, *, bias=None, gate=None, row_weights=None):
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)[LAYER]
    y = np.stack([x[row * len(x) // len(ids)] @ w[group] for row, group in enumerate(np.asarray(ids))])
    if bias is not None:
        y = y + np.asarray(bias, np.float64)[LAYER, np.asarray(ids)]
    if gate is not None:
        y = gated(*np.split(y, 2, axis=-1), gate)
    return y if row_weights is None else y * np.asarray(row_weights, np.float64)[:, None]


def product(x, w, ids, block_rows, implementation="triton", **fused):
    groups = group_rows(ids, w.shape[1], block_rows=block_rows, implementation=implementation)
    return grouped_matmul(x, w, groups, layer=LAYER, implementation=implementation, **fused)


@implementations
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("gate", [None, "silu", ClampedSwiglu()], ids=str)
@pytest.mark.parametrize("block_rows", [1, 16])
def test_is_the_definition(rng, block_rows, gate, dtype, implementation):
    """Of sizes that no block divides."""
    x, w, ids = random_case(rng, 20, 2, 3, 40, 44, dtype)
    fused = {
        "bias": jnp.full((LAYERS, 3, 44), jnp.nan).at[LAYER].set(rng.standard_normal((3, 44))),
        "row_weights": jnp.asarray(rng.random(40), jnp.float32),
    }
    got = product(x, w, ids, block_rows, implementation, gate=gate, **fused)
    wanted = definition(x, w, ids, gate=gate, **fused)
    assert (got.shape, got.dtype) == (wanted.shape, dtype)
    assert relative_error(np.asarray(got, np.float32), wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("blocks", [(16, 16, 4, 2), (64, 32, 4, 2), (32, 128, 4, 3)], ids=str)
def test_blocks_do_not_change_the_result(rng, blocks):
    x, w, ids = random_case(rng, 30, 1, 4, 72, 96, jnp.float32)
    groups = group_rows(ids, 4, block_rows=16)
    fusion = GroupedFusion(gate="silu")
    got = triton.grouped_matmul(
        x,
        w,
        groups,
        layer=LAYER,
        fusion=fusion,
        out_dtype=x.dtype,
        interpret=jax.default_backend() != "gpu",
        blocks=GroupedBlocks(*blocks),
    )
    assert relative_error(got, definition(x, w, ids, gate="silu")) < BOUNDS[jnp.float32]


def test_a_row_depends_on_no_other(rng):
    x, w, ids = random_case(rng, 40, 1, 3, 40, 32, jnp.float32)
    alone = product(x, w, ids, 16)
    mine = np.arange(0, 40, 3)
    others = jnp.asarray(np.where(np.isin(np.arange(40), mine), np.asarray(ids), 1), jnp.int32)
    changed = jnp.full_like(x, jnp.nan).at[mine].set(x[mine])
    np.testing.assert_array_equal(product(changed, w, others, 16)[mine], alone[mine])


@pytest.mark.gpu
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("tokens", "block_rows"), [(1, 1), (8, 16), (100, 64), (700, 128)])
def test_candidates_do_not_change_the_result(rng, name, tokens, block_rows):
    shape = SHAPES[name]
    columns = shape.num_out * (2 if shape.is_gated else 1)
    num_groups = min(shape.num_groups, 8)
    x, w, ids = random_case(rng, tokens, 2, num_groups, shape.num_in, columns, jnp.bfloat16)
    fusion = GroupedFusion(gate="silu" if shape.is_gated else None)
    groups = group_rows(ids, num_groups, block_rows=block_rows)
    wanted = product(x, w, ids, block_rows, "reference", gate=fusion.gate)
    for blocks in every_nth(tuning.grouped_candidates(GroupedCall.of(x, w, groups, fusion)), 6, rng):
        got = triton.grouped_matmul(
            x, w, groups, layer=LAYER, fusion=fusion, out_dtype=x.dtype, interpret=False, blocks=blocks
        )
        error = relative_error(np.asarray(got, np.float32), np.asarray(wanted, np.float32))
        assert error < BOUNDS[jnp.bfloat16]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("tokens", "block_rows"), [(1, 1), (8, 16), (256, 32), (512, 64), (4096, 128)])
def test_a_sweep_has_few_candidates_and_tries_the_heuristic(name, tokens, block_rows):
    shape = SHAPES[name]
    sizes = shape.num_groups, shape.num_in, shape.num_out
    call = GroupedCall(tokens * shape.top_k, block_rows, *sizes, shape.is_gated, 2)
    candidates = tuning.grouped_candidates(call)
    assert tuning.grouped_blocks(call) in candidates
    assert 1 < len(candidates) <= 40


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": jnp.zeros((6, 9))}, r"x has shape \(6, 9\)"),
        ({"x": jnp.zeros((5, 8))}, "x has 5 rows for 6 rows of groups"),
        ({"layer": 2}, "layer=2 is outside of a stack of 2"),
        ({"bias": jnp.zeros((2, 3, 5))}, r"bias has shape \(2, 3, 5\)"),
        ({"gate": "relu"}, "activation='relu' is none"),
        ({"row_weights": jnp.zeros(5)}, r"row_weights have shape \(5,\)"),
    ],
    ids=str,
)
def test_arguments_that_contradict_each_other_are_errors(changed, words):
    groups = group_rows(jnp.zeros(6, jnp.int32), 3, block_rows=1)
    case = {"x": jnp.zeros((6, 8)), "w": jnp.zeros((2, 3, 8, 4)), "groups": groups, "layer": 0}
    with pytest.raises(ValueError, match=words):
        grouped_matmul(**{**case, **changed})


def test_a_block_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="block_rows=24 must be a power of two"):
        group_rows(jnp.zeros(6, jnp.int32), 3, block_rows=24)


def test_other_weights_are_unsupported():
    groups = group_rows(jnp.zeros(6, jnp.int32), 3, block_rows=1)
    with pytest.raises(UnsupportedError, match="w is of Int8Weight: matrices of groups are served"):
        grouped_matmul(jnp.zeros((6, 8)), Int8Weight.of(jnp.zeros((2, 3, 8, 4))), groups, layer=0)
