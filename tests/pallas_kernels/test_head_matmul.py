"""Both implementations of the product of each head against the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.head_matmul import head_matmul, triton
from pallas_kernels.head_matmul.shapes import SHAPES, HeadMatmulShape
from pallas_kernels.head_matmul.tuning import (
    HeadMatmulBlocks,
    HeadMatmulCall,
    head_matmul_blocks,
    head_matmul_candidates,
)
from tests.pallas_kernels.compiled import compiled
from tests.pallas_kernels.paged_cases import relative_error

BOUNDS = {jnp.float32: 1e-6, jnp.bfloat16: 3e-3}  # relative error in the Euclidean norm
LAYER, NUM_LAYERS = 1, 3
INTERPRETED = [("tiny", jnp.float32), ("tiny", jnp.bfloat16), ("deepseek-v2-lite", jnp.bfloat16)]
CASES = [
    pytest.param(name, dtype, id=f"{name}-{dtype.__name__}", marks=marks)
    for name in SHAPES
    for dtype in BOUNDS
    for marks in [() if (name, dtype) in INTERPRETED else pytest.mark.gpu]
]


def arguments(rng: np.random.Generator, shape: HeadMatmulShape, num_tokens: int, transposed: bool, dtype):
    """x, with NaN behind what is multiplied; the weight, with NaN in all that is not; and the rows."""
    rows_each = shape.nope_dim + shape.value_dim
    first, end = rows = (shape.nope_dim, rows_each) if transposed else (0, shape.nope_dim)
    num_inputs = shape.latent_dim if transposed else shape.nope_dim
    x = np.full((num_tokens, shape.num_heads, num_inputs + 8), np.nan, np.float32)
    x[..., :num_inputs] = rng.standard_normal((num_tokens, shape.num_heads, num_inputs))
    weight = np.full((NUM_LAYERS, shape.num_heads, rows_each, shape.latent_dim), np.nan, np.float32)
    of_rows = (shape.num_heads, end - first, shape.latent_dim)
    weight[LAYER, :, first:end] = rng.standard_normal(of_rows)
    flat = weight.reshape(NUM_LAYERS, -1, shape.latent_dim)
    return jnp.asarray(x, dtype), jnp.asarray(flat, dtype), rows


def definition(x: jax.Array, weight: jax.Array, rows: tuple[int, int], transposed: bool) -> np.ndarray:
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    heads = weight[LAYER].reshape(x.shape[1], -1, weight.shape[2])[:, slice(*rows)]
    formula = "thc,hrc->thr" if transposed else "thr,hrc->thc"
    return np.einsum(formula, x[..., : x.shape[-1] - 8], heads)


@pytest.mark.parametrize("transposed", [False, True])
def test_reference_is_the_definition(rng, transposed):
    x, weight, rows = arguments(rng, SHAPES["tiny"], 5, transposed, jnp.float32)
    got = head_matmul(x, weight, layer=LAYER, rows=rows, transposed=transposed, implementation="reference")
    assert relative_error(np.asarray(got), definition(x, weight, rows, transposed)) < 1e-6


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_kernel_is_the_definition(rng, name, dtype, transposed):
    x, weight, rows = arguments(rng, SHAPES[name], 5, transposed, dtype)
    multiply = compiled(head_matmul, rows=rows, transposed=transposed, implementation="pallas")
    got = multiply(x, weight, layer=LAYER)
    assert got.dtype == dtype
    assert (
        relative_error(np.asarray(got, np.float32), definition(x, weight, rows, transposed)) < BOUNDS[dtype]
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_any_blocks(rng, transposed):
    """Tokens, inputs and outputs that do not fill the last blocks."""
    x, weight, rows = arguments(rng, HeadMatmulShape(2, 40, 24, 72), 37, transposed, jnp.float32)
    multiply = functools.partial(triton.head_matmul, interpret=jax.default_backend() != "gpu")
    blocks = HeadMatmulBlocks(tokens=16, outputs=32, inputs=16, num_warps=4, num_stages=3)
    got = multiply(x, weight, layer=LAYER, rows=rows, transposed=transposed, blocks=blocks)
    assert relative_error(np.asarray(got), definition(x, weight, rows, transposed)) < BOUNDS[jnp.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("num_tokens", [1, 64, 1000])
@pytest.mark.parametrize("name", SHAPES)
def test_many_tokens_on_a_gpu(rng, name, num_tokens):
    for transposed in (False, True):
        x, weight, rows = arguments(rng, SHAPES[name], num_tokens, transposed, jnp.bfloat16)
        options = {"layer": LAYER, "rows": rows, "transposed": transposed}
        got, wanted = (
            head_matmul(x, weight, **options, implementation=each) for each in ("pallas", "reference")
        )
        assert relative_error(np.asarray(got, np.float32), np.asarray(wanted, np.float32)) < 3e-3


def test_what_contradicts_itself_is_an_error(rng):
    x, weight, rows = arguments(rng, SHAPES["tiny"], 5, False, jnp.float32)
    with pytest.raises(
        ValueError, match=r"weight has shape \(3, 95, 32\); it must be .* for each of 3 heads"
    ):
        head_matmul(x, weight[:, 1:], layer=0, rows=rows)
    with pytest.raises(ValueError, match="rows 12 to 33 are not among the 32 of a head"):
        head_matmul(x, weight, layer=0, rows=(12, 33))
    with pytest.raises(ValueError, match="x has 11 elements a head, and 12 are multiplied"):
        head_matmul(x[..., :11], weight, layer=0, rows=rows)
    with pytest.raises(UnsupportedError, match="x in bfloat16 and a weight in float32"):
        head_matmul(x.astype(jnp.bfloat16), weight, layer=0, rows=rows)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("num_tokens", [1, 100, 8192])
def test_blocks_are_consistent(name, num_tokens):
    shape = SHAPES[name]
    call = HeadMatmulCall(num_tokens, shape.num_heads, shape.nope_dim, shape.latent_dim, 0, itemsize=2)
    candidates = head_matmul_candidates(call)
    assert 1 < len(candidates) <= 64
    for blocks in [head_matmul_blocks(call), *candidates]:
        assert all(n >= 16 and n & (n - 1) == 0 for n in (blocks.tokens, blocks.outputs, blocks.inputs)), (
            blocks
        )
