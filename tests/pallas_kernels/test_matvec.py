"""Both implementations of the matrix-vector product against the definition, and every way the kernel can compute it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.matvec import matvec, triton
from pallas_kernels.matvec.shapes import SHAPES
from pallas_kernels.matvec.tuning import Blocks, matvec_blocks, matvec_candidates, matvec_key
from tests.pallas_kernels.paged_cases import relative_error

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}
WHOLE = Blocks(block_out=32, block_in=64, num_splits=1, dot_parts=None, num_warps=4, num_stages=1)
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


def dtype_of(way):
    """A dot rounds float32, and nothing multiplies bfloat16 without one."""
    return jnp.float32 if WAYS[way].dot_parts is None else jnp.bfloat16


def make(rng, batch, num_in, num_out, dtype, transposed=False, layers=None):
    """x, w and the definition in float64; layer 1 is the one that is wanted, and those on both sides of it are NaN."""
    x = jnp.asarray(rng.standard_normal((batch, num_in), np.float32), dtype)
    shape = (num_out, num_in) if transposed else (num_in, num_out)
    matrix = jnp.asarray(rng.standard_normal(shape, np.float32), dtype)
    wide = np.asarray(matrix, np.float64)
    wanted = np.asarray(x, np.float64) @ (wide.T if transposed else wide)
    stack = matrix if layers is None else jnp.full((layers, *shape), jnp.nan, dtype).at[1].set(matrix)
    return x, stack, wanted


@pytest.mark.parametrize("implementation", ["reference", "pallas"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("transposed", [False, True], ids=["in_out", "out_in"])
@pytest.mark.parametrize(("batch", "layers"), [(1, 3), (3, None), (16, None)])
def test_is_the_definition(rng, batch, layers, transposed, dtype, implementation):
    x, w, wanted = make(rng, batch, 80, 200, dtype, transposed, layers)
    layer = None if layers is None else 1
    got = matvec(x, w, layer=layer, transposed=transposed, implementation=implementation)
    assert got.dtype == dtype
    assert relative_error(got, wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("transposed", "sizes"),
    [(True, (1, 384, 64)), (False, (3, 330, 75))],
    ids=["out_in-whole", "in_out-overhanging"],
)
def test_every_way_to_compute_it(rng, sizes, transposed, way):
    dtype = dtype_of(way)
    x, w, wanted = make(rng, *sizes, dtype, transposed, layers=3)
    run = functools.partial(triton.matvec, blocks=WAYS[way], interpret=INTERPRET)
    got = jax.jit(run, static_argnums=(2, 3, 4))(x, w, 1, transposed, x.dtype)
    assert relative_error(got, wanted) < BOUNDS[dtype]


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", REAL)
def test_shapes_of_real_models(rng, name, batch):
    shape = SHAPES[name]
    x, w, wanted = make(rng, batch, shape.num_in, shape.num_out, jnp.bfloat16, shape.transposed)
    got = jax.jit(functools.partial(matvec, transposed=shape.transposed, implementation="pallas"))(x, w)
    assert relative_error(got, wanted) < BOUNDS[jnp.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ["qwen3-0.6b-o", "qwen3-8b-qkv"])
def test_every_candidate_gives_the_same_bits_again(rng, name, batch):
    shape = SHAPES[name]
    x, w, wanted = make(rng, batch, shape.num_in, shape.num_out, jnp.bfloat16, shape.transposed, layers=3)
    for blocks in matvec_candidates(batch, shape.num_in, shape.num_out, shape.transposed, 2):
        run = jax.jit(functools.partial(triton.matvec, blocks=blocks, interpret=False), static_argnums=(2, 3, 4))
        first, *others = (np.asarray(run(x, w, 1, shape.transposed, jnp.dtype(jnp.float32))) for _ in range(20))
        assert relative_error(first, wanted) < 1e-5, blocks
        assert all(np.array_equal(first, other) for other in others), blocks


def test_logits_are_not_rounded(rng):
    x, w, wanted = make(rng, 2, 256, 100, jnp.bfloat16)
    for implementation in ("reference", "pallas"):
        got = matvec(x, w, out_dtype=jnp.float32, implementation=implementation)
        assert got.dtype == jnp.float32
        assert relative_error(got, wanted) < 1e-6


@pytest.mark.parametrize("way", ["multiply", "dot of parts"])
def test_what_is_not_finite_stays_in_its_output(rng, way):
    """The dot of parts multiplies every part of x with every part of the weights, and drops most products."""
    x, w, _ = make(rng, 3, 256, 32, dtype_of(way))
    w = w.at[3, 7].set(jnp.inf).at[200, 20].set(jnp.nan)
    got = np.asarray(triton.matvec(x, w, None, False, jnp.float32, blocks=WAYS[way], interpret=INTERPRET))
    assert np.isinf(got[:, 7]).all()
    assert np.isnan(got[:, 20]).all()
    assert np.isfinite(np.delete(got, [7, 20], axis=1)).all()


@pytest.mark.parametrize("way", ["multiply, split", "dot of parts", "dot of parts, split"])
def test_only_the_kernel_reads_the_stack(way):
    """A slice of it in XLA would be a copy."""
    x, w = (jax.ShapeDtypeStruct(sizes, dtype_of(way)) for sizes in ((2, 384), (4, 384, 64)))
    run = functools.partial(
        triton.matvec, layer=2, transposed=False, out_dtype=x.dtype, blocks=WAYS[way], interpret=False
    )
    program = jax.make_jaxpr(run)(x, w).jaxpr
    assert [eqn.primitive.name for eqn in program.eqns if program.invars[1] in eqn.invars] == ["pallas_call"]


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_candidates_are_few_and_distinct_and_hold_the_choice(name, itemsize):
    for batch in range(1, triton.MAX_BATCH + 1):
        arguments = batch, SHAPES[name].num_in, SHAPES[name].num_out, SHAPES[name].transposed, itemsize
        candidates = matvec_candidates(*arguments)
        assert matvec_blocks(*arguments) in candidates
        assert len(candidates) == len(set(candidates)) <= 40
        assert all((blocks.dot_parts is None) == (itemsize == 4) for blocks in candidates)


def test_the_key_is_what_the_choice_depends_on():
    assert matvec_key(3, 1024, 4096, False, 2) == {
        "batch": 4,
        "in": 1024,
        "out": 4096,
        "layout": "in_out",
        "itemsize": 2,
    }
    assert matvec_key(4, 1024, 4096, True, 2)["layout"] == "out_in"


def test_wrong_arguments_are_errors():
    x, w = jnp.ones((2, 4)), jnp.ones((4, 6))
    with pytest.raises(ValueError, match=r"x has shape \(4,\)"):
        matvec(x[0], w)
    with pytest.raises(ValueError, match=r"x has shape \(0, 4\)"):
        matvec(x[:0], w)
    with pytest.raises(ValueError, match=r"x has 4 inputs and w 6; they must be equal \(\[out, in\] is \(4, 6\)\)"):
        matvec(x, w, transposed=True)
    with pytest.raises(ValueError, match="a stack of layers needs one"):
        matvec(x, w[None])
    with pytest.raises(ValueError, match="a matrix takes none"):
        matvec(x, w, layer=0)
    for layer in (-1, 1):
        with pytest.raises(ValueError, match=f"layer={layer} is outside of a stack of 1 layers"):
            matvec(x, w[None], layer=layer)


def test_what_no_kernel_serves_is_an_error_with_a_remedy():
    x, w = jnp.ones((17, 4)), jnp.ones((4, 6))
    with pytest.raises(UnsupportedError, match=r"batch=17: the kernel serves at most 16 rows; use jnp\.dot"):
        matvec(x, w, implementation="pallas")
    assert matvec(x, w, implementation="reference").shape == (17, 6)
    with pytest.raises(UnsupportedError, match="float16: the kernel serves bfloat16 and float32"):
        matvec(x[:2].astype(jnp.float16), w.astype(jnp.float16), implementation="pallas")
    with pytest.raises(UnsupportedError, match="x in bfloat16 and w in float32"):
        matvec(x.astype(jnp.bfloat16), w)
