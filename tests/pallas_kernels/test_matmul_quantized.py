"""Products with quantized weights: every implementation against the definition, and exactly where the
arithmetic is."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int4Weight, Int8Weight, Mxfp4Weight
from pallas_kernels.matmul import matmul
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.quantized import triton
from pallas_kernels.matmul.quantized.tuning import QuantizedCall, quantized_blocks, quantized_candidates
from pallas_kernels.matmul.tuning import MatmulBlocks
from tests.pallas_kernels.paged_cases import relative_error

INTERPRET = jax.default_backend() != "gpu"
EPSILON = 0.1  # large enough to matter
LAYERS, LAYER = 3, 1


def int8_with_zeros(w):
    """As GPTQ's asymmetric eight bits are: a code that stands for zero in each group."""
    symmetric = Int8Weight.of(w + 0.5, group_size=32)
    zeros = jnp.clip(jnp.round(0.5 / symmetric.scales), 0, 127).astype(jnp.int8)
    return dataclasses.replace(symmetric, zeros=zeros)


FLOAT_ACTIVATIONS = {
    "int8": Int8Weight.of,
    "int8 of groups": functools.partial(Int8Weight.of, group_size=64),
    "int8 of groups with zeros": int8_with_zeros,
    "fp8": Fp8Weight.of,
    "fp8 of blocks": BlockFp8Weight.of,
    "int4": Int4Weight.of,
    "int4 of 32 with zeros": functools.partial(Int4Weight.of, group_size=32, symmetric=False),
    "mxfp4": Mxfp4Weight.of,
}
INPUT_SCALE = jnp.full(LAYERS, 0.02)
EIGHT_BIT_ACTIVATIONS = {
    "int8 dynamic": functools.partial(Int8Weight.of, activations="dynamic"),
    "int8 static": functools.partial(Int8Weight.of, activations="static", input_scale=INPUT_SCALE),
    "fp8 dynamic": functools.partial(Fp8Weight.of, activations="dynamic"),
    "fp8 static": functools.partial(Fp8Weight.of, activations="static", input_scale=INPUT_SCALE),
    "fp8 of blocks dynamic": functools.partial(BlockFp8Weight.of, activations="dynamic"),
}
MAKERS = FLOAT_ACTIVATIONS | EIGHT_BIT_ACTIVATIONS
IMPLEMENTATIONS = ("reference", "xla", "triton")
BOUNDS = {
    ("reference", jnp.float32): 2e-5,
    ("xla", jnp.float32): 2e-5,
    ("triton", jnp.bfloat16): 3e-3,
    ("xla", jnp.bfloat16): 5e-3,  # rounds weights to bfloat16 where they have groups
}
# Where an activation lies between two steps of eight bits, float32 may take the other one: of e4m3 an eighth
# of it or less, which a gate doubles. One large one moved a result by 1.84e-2 (seed 1379488959).
STEPS = {Int8Weight: 4e-3, Fp8Weight: 2.5e-2, BlockFp8Weight: 2.5e-2}


def made(rng, of, num_in=300, num_out=144):
    return of(jnp.asarray(rng.standard_normal((LAYERS, num_in, num_out)), jnp.float32))


def quantized(x: np.ndarray, w) -> np.ndarray:
    """What the rows of x become for w, by the definition, in float64."""
    if w.activations == "float":
        return x
    dtype, largest = (jnp.int8, 127) if isinstance(w, Int8Weight) else (jnp.float8_e4m3fn, 448)
    if w.activations == "static":
        scales = np.full((1, 1), float(w.input_scale[LAYER]))
    else:
        size = 128 if isinstance(w, BlockFp8Weight) else x.shape[1]
        starts = range(0, x.shape[1], size)
        groups = np.stack([np.abs(x[:, start : start + size]).max(1) for start in starts], axis=1)
        scales = groups.repeat(size, axis=1)[:, : x.shape[1]] / largest
    steps = np.clip(x / scales, -128 if dtype == jnp.int8 else -largest, largest).astype(np.float32)
    if dtype == jnp.int8:
        steps = np.round(steps)
    return np.asarray(jnp.asarray(steps).astype(dtype), np.float64) * scales


def definition(x, w, *, norm=None, bias=None, gated=False, residual=None) -> np.ndarray:
    wide = np.asarray(x, np.float64)
    if norm is not None:
        scale = np.asarray(norm[0][LAYER], np.float64)
        wide = wide / np.sqrt((wide**2).mean(1, keepdims=True) + norm[1]) * scale
    y = quantized(wide, w) @ np.asarray(w.dequantized()[LAYER], np.float64)
    if bias is not None:
        y = y + np.asarray(bias[LAYER], np.float64)
    if gated:
        gate, other = np.split(y, 2, axis=1)
        y = gate / (1 + np.exp(-gate)) * other
    return y if residual is None else np.asarray(residual, np.float64) + y


def ends(rng, x, num_out: int) -> dict:
    """A norm before the product; a bias, a gate and a residual after it."""

    def numbers(*shape):
        return jnp.asarray(rng.standard_normal(shape), x.dtype)

    return {
        "norm": (numbers(LAYERS, x.shape[1]), EPSILON),
        "bias": numbers(LAYERS, num_out),
        "gated": True,
        "residual": numbers(x.shape[0], num_out // 2),
    }


@pytest.mark.parametrize(("implementation", "dtype"), BOUNDS)
@pytest.mark.parametrize("name", MAKERS)
def test_is_the_definition(rng, name, dtype, implementation):
    w = made(rng, MAKERS[name])
    x = jnp.asarray(rng.standard_normal((5, w.num_in)), dtype)
    got = matmul(x, w, layer=LAYER, implementation=implementation)
    assert got.dtype == dtype
    bound = BOUNDS[implementation, dtype] + (0 if w.activations == "float" else STEPS[type(w)])
    assert relative_error(got, definition(x, w)) < bound


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        *itertools.product(MAKERS, ["triton"]),
        *itertools.product(["int8", "int8 dynamic", "fp8 static"], ["reference", "xla"]),
    ],
)
def test_with_all_that_is_around_it(rng, name, implementation):
    w = made(rng, MAKERS[name])
    dtype = jnp.bfloat16 if implementation == "triton" else jnp.float32
    x = jnp.asarray(rng.standard_normal((3, w.num_in)), dtype)
    around = ends(rng, x, w.num_out)
    got = matmul(x, w, layer=jnp.int32(LAYER), implementation=implementation, **around)
    assert relative_error(got, definition(x, w, **around)) < 5e-3 + STEPS.get(type(w), 0)


@pytest.mark.parametrize("rows", [3, 70])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_gate_of_gelu_and_a_scale_in_float32(rng, implementation, rows):
    """Of more rows than the kernel gates, too."""
    x, w = jnp.asarray(rng.standard_normal((rows, 300)), jnp.bfloat16), made(rng, MAKERS["int8"])
    norm = jnp.asarray(1 + rng.standard_normal((LAYERS, 300)) / 300, jnp.float32), EPSILON
    gate, other = np.split(definition(x, w, norm=norm), 2, axis=1)
    wanted = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))) * other
    around = {"norm": norm, "gated": True, "activation": "gelu_tanh"}
    got = matmul(x, w, layer=LAYER, **around, implementation=implementation)
    assert relative_error(got, wanted) < 1e-2


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sums_of_integers_are_exact(rng, implementation):
    """The largest of each row is 127, so that its scale is 1; and the weights' are powers of two."""
    x = rng.integers(-127, 128, (4, 512))
    x[:, 0] = 127
    values = rng.integers(-127, 128, (96, 512))
    scales = 2.0 ** rng.integers(-3, 4, (1, 96))
    w = Int8Weight(
        jnp.asarray(values, jnp.int8), jnp.asarray(scales, jnp.float32), 512, activations="dynamic"
    )
    got = matmul(jnp.asarray(x, jnp.bfloat16), w, out_dtype=jnp.float32, implementation=implementation)
    np.testing.assert_array_equal(got, (x @ values.T) * scales)


E2M1 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def every_code(name: str):
    """Weights of 256 outputs with every byte at inputs 0 and 128, and their values [in, out]; of int4, every
    code with every zero at inputs 0 and 64, and of mxfp4, every code with many scales there."""
    codes = np.arange(256, dtype=np.uint8)
    if name == "mxfp4":
        both = np.zeros((256, 256), np.uint8)
        both[:, 0], both[:, 64] = codes & 15, codes >> 4
        scales = np.full((8, 256), 127, np.uint8)
        scales[0], scales[2] = np.clip(codes, 28, 228), np.clip(codes[::-1], 28, 228)
        values = np.ldexp(E2M1[both[:, [0, 64]].T], scales[[0, 2]].astype(int) - 127)
        return Mxfp4Weight.of_codes(jnp.asarray(both), jnp.asarray(scales)), values
    if name == "int4":
        both = np.zeros((256, 256), np.uint8)
        both[:, 0], both[:, 64] = codes & 15, codes >> 4
        zeros = np.stack([codes >> 4, codes & 15, codes & 15, codes & 15])
        arrays = jnp.asarray(both), jnp.ones((4, 256))
        w = Int4Weight.of_codes(*arrays, group_size=64, zeros=jnp.asarray(zeros))
        return w, np.asarray([both[:, 0], both[:, 64]], np.float32) - zeros[:2]
    dtype = jnp.dtype(jnp.int8 if name == "int8" else jnp.float8_e4m3fn)
    values = np.zeros((256, 256), np.uint8)
    values[:, 0], values[:, 128] = codes, codes[::-1]
    if name == "fp8":
        values[values & 127 == 127] = 0  # NaN, which would be in the sum of every row
    of_bits = jnp.asarray(values.view(dtype))
    w = Int8Weight(of_bits, jnp.ones((1, 256)), 256) if name == "int8" else Fp8Weight(of_bits, jnp.ones(256))
    return w, values.view(dtype)[:, [0, 128]].T.astype(np.float32)


@pytest.mark.parametrize("name", ["int8", "int4", "fp8", "mxfp4"])
def test_every_code_becomes_its_value(name):
    """Of the two halves of a byte as well; zeros and subnormal numbers among them."""
    w, wanted = every_code(name)
    x = jnp.zeros((2, 256), jnp.bfloat16).at[[0, 1], [0, 128 if name in ("int8", "fp8") else 64]].set(1)
    got = matmul(x, w, out_dtype=jnp.float32, implementation="triton")
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_scale_that_is_no_number_makes_no_number(implementation):
    """Of its own output alone."""
    w = Mxfp4Weight.of(jnp.ones((64, 16)))
    w = dataclasses.replace(w, scales=w.scales.at[1, 3].set(255))
    got = matmul(jnp.ones((1, 64), jnp.bfloat16), w, implementation=implementation)
    np.testing.assert_array_equal(np.isfinite(np.asarray(got[0], np.float32)), np.arange(16) != 3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_fewer_inputs_than_share_a_scale(rng, implementation):
    w = made(rng, Mxfp4Weight.of, num_in=20)
    x = jnp.asarray(rng.standard_normal((2, 20)), jnp.bfloat16)
    got = matmul(x, w, layer=LAYER, implementation=implementation)
    assert relative_error(got, definition(x, w)) < 5e-3


WHOLE = MatmulBlocks(block_out=32, block_in=64, num_splits=1, dot_parts=1, num_warps=4, num_stages=3)
WAYS = {
    "parts": dataclasses.replace(WHOLE, block_out=16, dot_parts=4, block_in=32),
    "splits": dataclasses.replace(WHOLE, num_splits=3),
    "parts and splits beyond the inputs": dataclasses.replace(WHOLE, dot_parts=2, num_splits=4),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["int4 of 64 with zeros", "mxfp4", "int8 dynamic", "fp8 of blocks dynamic"])
def test_every_way_to_compute_it(rng, name, way):
    of = MAKERS.get(name) or functools.partial(Int4Weight.of, group_size=64, symmetric=False)
    w = made(rng, of)
    x = jnp.asarray(rng.standard_normal((3, w.num_in)), jnp.bfloat16)
    around = ends(rng, x, w.num_out)
    blocks = WAYS[way]
    if name == "mxfp4":  # whose tiles are no wider than a group
        blocks = dataclasses.replace(blocks, block_in=32)
    options = {"layer": LAYER, "transposed": False, "out_dtype": x.dtype, "interpret": INTERPRET}
    got = triton.matmul(x, w, fusion=Fusion(**around), blocks=blocks, **options)
    assert relative_error(got, definition(x, w, **around)) < 5e-3 + STEPS.get(type(w), 0)


@pytest.mark.parametrize("rows", [17, 64])
@pytest.mark.parametrize("name", ["int4", "mxfp4", "int8 dynamic"])
def test_many_rows(rng, name, rows):
    """More than the kernel normalizes by itself."""
    w = made(rng, MAKERS[name])
    x = jnp.asarray(rng.standard_normal((rows, w.num_in)), jnp.bfloat16)
    norm = jnp.asarray(rng.standard_normal((LAYERS, w.num_in)), jnp.bfloat16), EPSILON
    got = matmul(x, w, layer=LAYER, norm=norm, implementation="triton")
    assert relative_error(got, definition(x, w, norm=norm)) < 5e-3 + STEPS.get(type(w), 0)


def test_a_row_is_the_same_whatever_the_others_hold(rng):
    for name in ("int4", "mxfp4", "int8 dynamic"):
        w = made(rng, MAKERS[name])
        x = jnp.asarray(rng.standard_normal((3, w.num_in)), jnp.bfloat16)
        got, other = (matmul(x, w, layer=LAYER, implementation="triton") for x in (x, x.at[1:].multiply(3)))
        np.testing.assert_array_equal(*(np.asarray(y[0], np.float32) for y in (got, other)))
        assert (got[1:] != other[1:]).any()


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize(
    ("kind", "element_bytes", "max_block"), [("int4", 2, 64), ("int4", 2, 32), ("int8-int8", 1, 128)]
)
def test_candidates_are_few_and_distinct_and_hold_the_choice(kind, element_bytes, max_block, is_gated):
    for rows, num_elements, num_out in (
        (1, 4096, 4096),
        (16, 2048, 12288),
        (64, 6144, 4096),
        (128, 512, 1024),
    ):
        call = QuantizedCall(kind, rows, num_elements, num_out, element_bytes, max_block, is_gated, False)
        candidates = quantized_candidates(call)
        assert quantized_blocks(call) in candidates
        assert len(candidates) == len(set(candidates)) <= 50
        assert all(blocks.block_in <= max_block for blocks in candidates)
        assert all(blocks.block_out * blocks.dot_parts >= 64 for blocks in candidates)


def test_the_kernel_is_chosen_for_few_rows_that_it_serves():
    w = Int4Weight.of(jnp.ones((256, 32)))
    call = functools.partial(matmul, implementation="pallas")
    for rows, dtype, is_kernel in (
        (1, jnp.bfloat16, True),
        (129, jnp.bfloat16, False),
        (1, jnp.float32, False),
    ):
        text = str(jax.make_jaxpr(call)(jnp.ones((rows, 256), dtype), w))
        assert ("pallas_call" in text) == is_kernel


def test_what_no_kernel_serves_is_an_error_with_a_remedy():
    x, serve = jnp.ones((129, 256), jnp.bfloat16), functools.partial(matmul, implementation="triton")
    w = Int4Weight.of(jnp.ones((256, 32)))
    with pytest.raises(
        UnsupportedError, match='129 rows, and it serves at most 128; use implementation="xla"'
    ):
        serve(x, w)
    with pytest.raises(UnsupportedError, match="x is float32, and must be bfloat16"):
        serve(x[:1].astype(jnp.float32), w)
    with pytest.raises(UnsupportedError, match="groups of 48, and they must be powers of two from 32 on"):
        serve(x[:1], Int8Weight.of(jnp.ones((256, 32)), group_size=48))
    with pytest.raises(UnsupportedError, match="'float', and they multiply eight bits alone"):
        matmul(x, w, implementation="mosaic")
    with pytest.raises(UnsupportedError, match="no implementation 'mosaic'"):
        matmul(x, jnp.ones((256, 32), jnp.bfloat16), implementation="mosaic")


@pytest.mark.parametrize("kind", [Int4Weight, Int8Weight])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_inputs_are_permuted_as_weights_are(rng, implementation, kind):
    w = rng.standard_normal((300, 64)).astype(np.float32)
    order = rng.permutation(300)
    plain = kind.of(jnp.asarray(w[order]), group_size=64)
    permuted = dataclasses.replace(plain, permutation=jnp.asarray(order, jnp.int32))
    x = jnp.asarray(rng.standard_normal((2, 300)), jnp.bfloat16)
    scale = jnp.asarray(rng.standard_normal(300), jnp.bfloat16)
    run = functools.partial(matmul, implementation=implementation)
    got = run(x, permuted, norm=(scale, EPSILON))
    wanted = run(x[:, order], plain, norm=(scale[order], EPSILON))
    assert relative_error(got, np.asarray(wanted, np.float32)) < 3e-3


def test_wrong_weights_are_errors(rng):
    x = jnp.ones((2, 256))
    eight = Int8Weight.of(jnp.ones((256, 16)))
    with pytest.raises(ValueError, match=r"scales of Int8Weight has shape \(2, 16\); .* must be \(1, 16\)"):
        matmul(x, dataclasses.replace(eight, scales=jnp.ones((2, 16))))
    with pytest.raises(ValueError, match=r"scales of Mxfp4Weight has shape \(2, 16\); .* must be \(8, 16\)"):
        matmul(x, dataclasses.replace(Mxfp4Weight.of(x.T[:, :1].repeat(16, 1)), scales=jnp.ones((2, 16))))
    with pytest.raises(ValueError, match="activations='static': it needs input_scale"):
        matmul(x, dataclasses.replace(eight, activations="static"))
    with pytest.raises(ValueError, match="activations='dynamic': integers are summed before they are scaled"):
        matmul(x, Int8Weight.of(jnp.ones((256, 16)), group_size=64, activations="dynamic"))
    order = jnp.arange(256, dtype=jnp.int32)
    with pytest.raises(ValueError, match="in the order of the inputs, so there can be no permutation"):
        matmul(x, dataclasses.replace(eight, activations="dynamic", permutation=order))
    with pytest.raises(ValueError, match=r"permutation of Int8Weight has shape \(255,\); .* be \(256,\)"):
        matmul(x, dataclasses.replace(eight, permutation=order[1:]))
    with pytest.raises(ValueError, match="transposed=True with Int8Weight: it knows which of its axes"):
        matmul(x, eight, transposed=True)
    with pytest.raises(ValueError, match="x has 256 inputs and w 128"):
        matmul(x, Int4Weight.of(jnp.ones((128, 16))))
    with pytest.raises(ValueError, match="a stack of layers needs one"):
        matmul(x, jax.tree.map(lambda leaf: leaf[None], eight))
    with pytest.raises(UnsupportedError, match="x in int8 and quantized weights: cast x"):
        matmul(x.astype(jnp.int8), eight)
