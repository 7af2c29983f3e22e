"""Every implementation of the product against the definition, and every way the kernel can compute it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.triton_call import next_power_of_two
from pallas_kernels.matmul import MAX_NORM_ROWS, MAX_ROWS, matmul, triton
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.shapes import SHAPES
from pallas_kernels.matmul.tuning import (
    MatmulBlocks,
    MatmulCall,
    matmul_blocks,
    matmul_candidates,
    matmul_key,
)
from tests.pallas_kernels.paged_cases import relative_error

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}
NORM_BOUND = 5e-3  # in bfloat16: x * scale is rounded, and so is the result
EPSILON = 0.1  # large enough to matter
WHOLE = MatmulBlocks(block_out=32, block_in=64, num_splits=1, dot_parts=None, num_warps=4, num_stages=1)
SPLIT = dataclasses.replace(WHOLE, num_splits=3)
INTERPRET = jax.default_backend() != "gpu"
WAYS = {
    "multiply": WHOLE,
    "multiply, one tile": dataclasses.replace(WHOLE, block_in=512),
    "multiply, split": SPLIT,
    "dot": dataclasses.replace(WHOLE, dot_parts=1),
    "dot of parts": dataclasses.replace(WHOLE, block_out=16, dot_parts=4),
    "dot of parts, wide": dataclasses.replace(WHOLE, block_out=8, dot_parts=8),
    "dot of parts, split": dataclasses.replace(SPLIT, dot_parts=2),
    "multiply, a split beyond the inputs": dataclasses.replace(SPLIT, block_in=128, num_splits=4),
    "dot, a split beyond the inputs": dataclasses.replace(SPLIT, block_in=128, num_splits=4, dot_parts=1),
}
ON_A_CPU = ("qwen3-0.6b-qkv", "qwen3-0.6b-down")  # the others are slow, and alike
REAL = [pytest.param(name, id=name, marks=() if name in ON_A_CPU else pytest.mark.gpu) for name in SHAPES]
FUSIONS = [  # norm, gated, residual
    pytest.param(*fusion, id="-".join(itertools.compress(("norm", "gated", "residual"), fusion)) or "alone")
    for fusion in itertools.product((False, True), repeat=3)
]
LAYOUTS = [False, True]


def dtype_of(way):
    """A dot rounds float32, and nothing multiplies bfloat16 without one."""
    return jnp.float32 if WAYS[way].dot_parts is None else jnp.bfloat16


def make(rng, rows, num_in, num_out, dtype, transposed=False, layers=None):
    """x, w and the definition in float64; layer 1 is the one that is wanted, and those on both sides of it
    are NaN."""
    x = jnp.asarray(rng.standard_normal((rows, num_in), np.float32), dtype)
    shape = (num_out, num_in) if transposed else (num_in, num_out)
    matrix = jnp.asarray(rng.standard_normal(shape, np.float32) / np.sqrt(num_in), dtype)
    wide = np.asarray(matrix, np.float64)
    wanted = np.asarray(x, np.float64) @ (wide.T if transposed else wide)
    return x, stacked(matrix, layers), wanted


def stacked(array, layers):
    """`array` as layer 1 of a stack whose other layers are NaN, or by itself."""
    return (
        array if layers is None else jnp.full((layers, *array.shape), jnp.nan, array.dtype).at[1].set(array)
    )


def make_fusion(rng, x, w, transposed, *, norm, gated, residual):
    """What is fused, with a scale for each layer of w, and the result with them in float64."""
    layers, matrix = (None, w) if w.ndim == 2 else (w.shape[0], w[1])
    scale = jnp.asarray(rng.standard_normal(x.shape[1], np.float32), x.dtype)
    wide, matrix = np.asarray(x, np.float64), np.asarray(matrix, np.float64)
    if norm:
        root_mean_square = np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + EPSILON)
        wide = wide / root_mean_square * np.asarray(scale, np.float64)
    wanted = wide @ (matrix.T if transposed else matrix)
    if gated:
        gate, other = np.split(wanted, 2, axis=1)
        wanted = gate / (1 + np.exp(-gate)) * other
    before = jnp.asarray(rng.standard_normal(wanted.shape, np.float32), x.dtype)
    if residual:
        wanted = wanted + np.asarray(before, np.float64)
    fused_norm = (stacked(scale, layers), EPSILON) if norm else None
    return Fusion(norm=fused_norm, gated=gated, residual=before if residual else None), wanted


def bound(dtype, norm):
    return NORM_BOUND if norm and dtype == jnp.bfloat16 else BOUNDS[dtype]


@pytest.mark.parametrize("implementation", ["reference", "xla", "triton"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("transposed", LAYOUTS, ids=["in_out", "out_in"])
@pytest.mark.parametrize(("rows", "layers"), [(1, 3), (9, None)])
def test_is_the_definition(rng, rows, layers, transposed, dtype, implementation):
    x, w, wanted = make(rng, rows, 80, 200, dtype, transposed, layers)
    layer = None if layers is None else 1
    got = matmul(x, w, layer=layer, transposed=transposed, implementation=implementation)
    assert got.dtype == dtype
    assert relative_error(got, wanted) < BOUNDS[dtype]


@pytest.mark.parametrize(("norm", "gated", "residual"), FUSIONS)
@pytest.mark.parametrize(
    ("implementation", "dtype", "rows", "transposed", "layers"),
    [
        ("reference", jnp.float32, 1, True, None),
        ("reference", jnp.bfloat16, 5, False, 3),
        ("xla", jnp.float32, 5, False, 3),
        ("xla", jnp.float32, 1, True, None),
        ("triton", jnp.bfloat16, 5, False, 3),
    ],
    ids=[
        "reference-row-float32",
        "reference-stack-bfloat16",
        "xla-stack-float32",
        "xla-row-float32",
        "triton-stack-bfloat16",
    ],
)
def test_fused_ends_are_the_definition(
    rng, dtype, rows, transposed, layers, norm, gated, residual, implementation
):
    x, w, _ = make(rng, rows, 80, 72, dtype, transposed, layers)
    fusion, wanted = make_fusion(rng, x, w, transposed, norm=norm, gated=gated, residual=residual)
    got = matmul(
        x,
        w,
        layer=None if layers is None else jnp.int32(1),
        transposed=transposed,
        implementation=implementation,
        norm=fusion.norm,
        gated=gated,
        residual=fusion.residual,
    )
    assert got.dtype == dtype
    assert relative_error(got, wanted) < bound(dtype, norm)


@pytest.mark.parametrize("layers", [None, 3])
@pytest.mark.parametrize("implementation", ["reference", "xla", "pallas"])
def test_a_bias_is_added_before_the_gate(rng, implementation, layers):
    """By XLA for "pallas", since the kernel adds none."""
    x, w, wanted = make(rng, 2, 80, 72, jnp.float32, layers=layers)
    bias = rng.standard_normal(72, np.float32)
    layer = None if layers is None else 1
    got = matmul(
        x, w, layer=layer, bias=stacked(jnp.asarray(bias), layers), gated=True, implementation=implementation
    )
    gate, other = np.split(wanted + bias, 2, axis=1)
    assert relative_error(got, gate / (1 + np.exp(-gate)) * other) < BOUNDS[jnp.float32]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("implementation", ["reference", "xla", "triton"])
def test_a_gate_of_gelu(rng, implementation, dtype):
    """Also far from 0, where the exponential is beyond float32."""
    x, w, _ = make(rng, 4, 80, 72, dtype)
    x = x * jnp.asarray([[1], [30], [-30], [3000]], dtype)
    gate, other = np.split(np.asarray(x, np.float64) @ np.asarray(w, np.float64), 2, axis=1)
    got = matmul(x, w, gated=True, activation="gelu_tanh", implementation=implementation)
    # XLA's product is rounded before its halves meet, and so three times in a row.
    largest = 4 * 2**-9 if (implementation, dtype) == ("xla", jnp.bfloat16) else bound(dtype, norm=True)
    for row, wanted in zip(got, gelu_tanh(gate) * other, strict=True):
        assert relative_error(row, wanted) < largest


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compute_a_gate_of_gelu(rng, way):
    dtype = dtype_of(way)
    x, w, wanted = make(rng, 3, 330, 78, dtype)
    gate, other = np.split(wanted, 2, axis=1)
    got = triton.matmul(
        x,
        w,
        layer=None,
        transposed=False,
        fusion=Fusion(gated=True, activation="gelu_tanh"),
        out_dtype=x.dtype,
        blocks=WAYS[way],
        interpret=INTERPRET,
    )
    assert relative_error(got, gelu_tanh(gate) * other) < BOUNDS[dtype]


@pytest.mark.parametrize("implementation", ["reference", "xla", "triton"])
def test_a_norm_in_bfloat16_may_have_a_scale_in_float32(rng, implementation):
    """1 + w of a small w is 1 in bfloat16: the differences of the scales are all that is left of the norm."""
    x, w, _ = make(rng, 4, 80, 72, jnp.bfloat16, layers=3)
    scale = jnp.asarray(1 + rng.standard_normal(80) / 300, jnp.float32)
    wide = np.asarray(x, np.float64)
    wide = wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + EPSILON) * np.asarray(scale, np.float64)
    norm = stacked(scale, 3), EPSILON
    got = matmul(x, w, layer=1, norm=norm, out_dtype=jnp.float32, implementation=implementation)
    assert relative_error(got, wide @ np.asarray(w[1], np.float64)) < NORM_BOUND


@pytest.mark.parametrize(
    ("dtype", "norm", "max_kernel_rows"),
    [(jnp.bfloat16, False, 32), (jnp.bfloat16, True, 16), (jnp.float32, False, 16), (jnp.float32, True, 16)],
)
def test_the_kernel_is_chosen_up_to_the_rows_to_which_it_is_faster(dtype, norm, max_kernel_rows):
    """On any device: where nobody measured, as on an H200."""
    w, scale = jnp.ones((64, 32), dtype), jnp.ones(64, dtype)
    for rows, is_kernel in ((max_kernel_rows, True), (max_kernel_rows + 1, False)):
        call = functools.partial(matmul, norm=(scale, EPSILON) if norm else None, implementation="pallas")
        assert ("pallas_call" in str(jax.make_jaxpr(call)(jnp.ones((rows, 64), dtype), w))) == is_kernel


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compute_it_overhanging_and_with_all_ends(rng, way):
    dtype = dtype_of(way)
    x, w, _ = make(rng, 3, 330, 78, dtype, layers=3)
    fusion, wanted = make_fusion(rng, x, w, False, norm=True, gated=True, residual=True)
    got = triton.matmul(
        x,
        w,
        layer=jnp.int32(1),
        transposed=False,
        fusion=fusion,
        out_dtype=x.dtype,
        blocks=WAYS[way],
        interpret=INTERPRET,
    )
    assert relative_error(got, wanted) < bound(dtype, norm=True)


@pytest.mark.parametrize(
    ("rows", "gated", "transposed", "num_splits"),
    [(17, False, True, 1), (40, True, False, 1), (40, True, False, 3), (128, False, False, 3)],
)
def test_many_rows(rng, rows, gated, transposed, num_splits):
    x, w, _ = make(rng, rows, 200, 104, jnp.bfloat16, transposed, layers=3)
    fusion, wanted = make_fusion(rng, x, w, transposed, norm=False, gated=gated, residual=True)
    blocks = MatmulBlocks(
        block_out=32, block_in=32, num_splits=num_splits, dot_parts=1, num_warps=4, num_stages=3
    )
    got = triton.matmul(
        x,
        w,
        layer=1,
        transposed=transposed,
        fusion=fusion,
        out_dtype=x.dtype,
        blocks=blocks,
        interpret=INTERPRET,
    )
    assert relative_error(got, wanted) < BOUNDS[jnp.bfloat16]


def test_all_layers_share_a_kernel():
    """Were the layer a number in it, a model would trace and compile a kernel for each."""
    x, w = jax.ShapeDtypeStruct((2, 64), jnp.float32), jax.ShapeDtypeStruct((5, 64, 64), jnp.float32)

    def stack(x, w):
        for layer in range(5):
            x = matmul(x, w, layer=layer, implementation="triton", interpret=True)
        return x

    calls = [eqn for eqn in jax.make_jaxpr(stack)(x, w).jaxpr.eqns if "jaxpr" in eqn.params]
    assert len(calls) == 5
    assert len({id(eqn.params["jaxpr"]) for eqn in calls}) == 1


@pytest.mark.parametrize("implementation", ["reference", "triton"])
def test_the_residual_is_added_before_anything_is_rounded(implementation):
    """257 lies between two numbers of bfloat16, 256 and 258: rounded first and then added to, it would remain
    256."""
    x, w = jnp.ones((1, 32), jnp.bfloat16), jnp.full((32, 16), 8, jnp.bfloat16).at[0].set(9)
    got = matmul(x, w, residual=jnp.ones((1, 16), jnp.bfloat16), implementation=implementation)
    np.testing.assert_array_equal(np.asarray(got, np.float32), 258)


def test_a_row_is_the_same_whatever_the_others_hold(rng):
    x, w, _ = make(rng, 3, 330, 78, jnp.bfloat16)
    fusion, _ = make_fusion(rng, x, w, False, norm=True, gated=True, residual=True)
    run = functools.partial(
        triton.matmul,
        layer=None,
        transposed=False,
        fusion=fusion,
        out_dtype=x.dtype,
        blocks=WAYS["dot of parts"],
        interpret=INTERPRET,
    )
    got, other = (run(x, w) for x in (x, x.at[1:].multiply(3)))
    np.testing.assert_array_equal(*(np.asarray(y[0], np.float32) for y in (got, other)))
    assert (got[1:] != other[1:]).any()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_compute_it_transposed_and_without_masks(rng, way):
    dtype = dtype_of(way)
    x, w, wanted = make(rng, 1, 384, 64, dtype, transposed=True, layers=3)
    got = triton.matmul(
        x,
        w,
        layer=1,
        transposed=True,
        fusion=Fusion(),
        out_dtype=x.dtype,
        blocks=WAYS[way],
        interpret=INTERPRET,
    )
    assert relative_error(got, wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("rows", [1, 8, pytest.param(64, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", REAL)
def test_shapes_of_real_models(rng, name, rows):
    shape = SHAPES[name]
    x, w, wanted = make(rng, rows, shape.num_in, shape.num_out, jnp.bfloat16, shape.transposed)
    got = jax.jit(functools.partial(matmul, transposed=shape.transposed, implementation="triton"))(x, w)
    assert relative_error(got, wanted) < BOUNDS[jnp.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("name", ["qwen3-0.6b-o", "qwen3-8b-qkv"])
def test_every_candidate_gives_the_same_bits_again(rng, name, rows):
    shape = SHAPES[name]
    x, w, wanted = make(rng, rows, shape.num_in, shape.num_out, jnp.bfloat16, shape.transposed, layers=3)
    for blocks in matmul_candidates(MatmulCall.of(x, w, shape.transposed, Fusion())):
        run = jax.jit(
            functools.partial(
                triton.matmul,
                layer=1,
                transposed=shape.transposed,
                fusion=Fusion(),
                out_dtype=jnp.dtype(jnp.float32),
                blocks=blocks,
                interpret=False,
            )
        )
        first, *others = (np.asarray(run(x, w)) for _ in range(20))
        assert relative_error(first, wanted) < 1e-5, blocks
        assert all(np.array_equal(first, other) for other in others), blocks


def test_logits_are_not_rounded(rng):
    x, w, wanted = make(rng, 2, 256, 100, jnp.bfloat16)
    for implementation in ("reference", "triton"):
        got = matmul(x, w, out_dtype=jnp.float32, implementation=implementation)
        assert got.dtype == jnp.float32
        assert relative_error(got, wanted) < 1e-6


@pytest.mark.parametrize("way", ["multiply", "dot of parts"])
def test_what_is_not_finite_stays_in_its_output(rng, way):
    """The dot of parts multiplies every part of x with every part of the weights, and drops most products."""
    x, w, _ = make(rng, 3, 256, 32, dtype_of(way))
    w = w.at[3, 7].set(jnp.inf).at[200, 20].set(jnp.nan)
    got = np.asarray(
        triton.matmul(
            x,
            w,
            layer=None,
            transposed=False,
            fusion=Fusion(),
            out_dtype=jnp.float32,
            blocks=WAYS[way],
            interpret=INTERPRET,
        )
    )
    assert np.isinf(got[:, 7]).all()
    assert np.isnan(got[:, 20]).all()
    assert np.isfinite(np.delete(got, [7, 20], axis=1)).all()


@pytest.mark.parametrize("way", ["multiply, split", "dot of parts", "dot of parts, split"])
def test_only_the_kernel_reads_the_stack(way):
    """A slice of it in XLA would be a copy."""
    x, w = (jax.ShapeDtypeStruct(sizes, dtype_of(way)) for sizes in ((2, 384), (4, 384, 64)))
    run = functools.partial(
        triton.matmul,
        layer=2,
        transposed=False,
        fusion=Fusion(),
        out_dtype=x.dtype,
        blocks=WAYS[way],
        interpret=False,
    )
    (call,) = jax.make_jaxpr(run)(x, w).jaxpr.eqns
    program = call.params["jaxpr"].jaxpr
    (stack,) = [var for var in program.invars if var.aval.shape == w.shape]
    assert [eqn.primitive.name for eqn in program.eqns if stack in eqn.invars] == ["pallas_call"]


CALL = MatmulCall(
    rows=3, num_in=1024, num_out=4096, is_transposed=False, is_gated=False, is_normalized=False, itemsize=2
)


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_candidates_are_few_and_distinct_and_hold_the_choice(name, itemsize, is_gated):
    shape = SHAPES[name]
    for rows in (1, 2, 3, 8, 16) if itemsize == 4 else (1, 2, 3, 8, 16, 17, 64, 128):
        call = MatmulCall(rows, shape.num_in, shape.num_out, shape.transposed, is_gated, rows <= 2, itemsize)
        candidates = matmul_candidates(call)
        assert matmul_blocks(call) in candidates
        assert len(candidates) == len(set(candidates)) <= 60
        assert all((blocks.dot_parts is None) == (itemsize == 4) for blocks in candidates)


def test_the_key_is_what_the_choice_depends_on():
    assert matmul_key(CALL) == CALL._replace(rows=next_power_of_two(CALL.rows))._asdict()
    keys = [
        matmul_key(CALL._replace(**{name: True})) for name in ("is_transposed", "is_gated", "is_normalized")
    ]
    assert len({tuple(key.items()) for key in [matmul_key(CALL), *keys]}) == 4


def test_wrong_arguments_are_errors():
    x, w = jnp.ones((2, 4)), jnp.ones((4, 6))
    with pytest.raises(ValueError, match=r"x has shape \(4,\)"):
        matmul(x[0], w)
    with pytest.raises(ValueError, match=r"x has shape \(0, 4\)"):
        matmul(x[:0], w)
    with pytest.raises(
        ValueError, match=r"x has 4 inputs and w 6; they must be equal \(\[out, in\] is \(4, 6\)\)"
    ):
        matmul(x, w, transposed=True)
    with pytest.raises(ValueError, match="a stack of layers needs one"):
        matmul(x, w[None])
    with pytest.raises(ValueError, match="a matrix takes none"):
        matmul(x, w, layer=0)
    for layer in (-1, 1):
        with pytest.raises(ValueError, match=f"layer={layer} is outside of a stack of 1 layers"):
            matmul(x, w[None], layer=layer)


def test_ends_that_do_not_fit_are_errors():
    x, w = jnp.ones((2, 4)), jnp.ones((3, 4, 6))
    with pytest.raises(ValueError, match="w has 5 outputs; gate and others are equal halves"):
        matmul(x, w[0, :, :5], gated=True)
    with pytest.raises(
        ValueError, match=r"residual has shape \(2, 6\) and the result \(2, 3\); they must be equal"
    ):
        matmul(x, w, layer=0, gated=True, residual=jnp.ones((2, 6)))
    for scale, layer in ((jnp.ones(6), 0), (jnp.ones((2, 4)), 0), (jnp.ones((3, 4)), None)):
        with pytest.raises(ValueError, match=r"the norm's scale has shape .* it must be \(4,\), or a stack"):
            matmul(x, w if layer == 0 else w[0], layer=layer, norm=(scale, 1e-6))
    with pytest.raises(UnsupportedError, match="x in float32 and residual in bfloat16"):
        matmul(x, w, layer=0, residual=jnp.ones((2, 6), jnp.bfloat16))
    with pytest.raises(ValueError, match=r"the bias has shape \(5,\); it must be \(6,\), or a stack"):
        matmul(x, w, layer=0, bias=jnp.ones(5))
    with pytest.raises(UnsupportedError, match="x in float32 and scale in bfloat16"):
        matmul(x, w, layer=0, norm=(jnp.ones(4, jnp.bfloat16), 1e-6))


def test_what_no_kernel_serves_is_an_error_with_a_remedy():
    x, w = jnp.ones((MAX_ROWS + 1, 4), jnp.bfloat16), jnp.ones((4, 6), jnp.bfloat16)
    norm = jnp.ones(4, jnp.bfloat16), 1e-6
    serve = functools.partial(matmul, implementation="triton")
    with pytest.raises(UnsupportedError, match=r"129 rows: the kernel serves at most 128; use jnp\.dot"):
        serve(x, w)
    with pytest.raises(
        UnsupportedError, match="17 rows and a norm: the kernel normalizes at most 16; normalize"
    ):
        serve(x[: MAX_NORM_ROWS + 1], w, norm=norm)
    with pytest.raises(
        UnsupportedError, match="17 rows of float32: the kernel serves at most 16 without tensor"
    ):
        serve(x[: MAX_NORM_ROWS + 1].astype(jnp.float32), w.astype(jnp.float32))
    with pytest.raises(UnsupportedError, match='a bias: the kernel adds none; use implementation="xla"'):
        serve(x[:1], w, bias=jnp.ones(6, jnp.bfloat16))
    assert matmul(x, w, norm=norm, implementation="reference").shape == (129, 6)
    with pytest.raises(UnsupportedError, match="float16: the kernel serves bfloat16 and float32"):
        serve(x[:2].astype(jnp.float16), w.astype(jnp.float16))
    with pytest.raises(UnsupportedError, match="x in bfloat16 and w in float32"):
        matmul(x, w.astype(jnp.float32))
