"""Products of many rows in Mosaic GPU: compiled on a GPU, elsewhere as Mosaic's own interpreter runs them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int8Weight
from pallas_kernels.matmul import matmul
from pallas_kernels.matmul.quantized import mosaic
from pallas_kernels.matmul.quantized.mosaic.serves import OLDEST_JAX
from pallas_kernels.quantize import quantize_rows
from tests.pallas_kernels.paged_cases import relative_error

KINDS = {
    "int8": (Int8Weight.of, {}),
    "fp8": (Fp8Weight.of, {"dtype": jnp.float8_e4m3fn}),
    "fp8 of blocks": (BlockFp8Weight.of, {"dtype": jnp.float8_e4m3fn, "group_size": 128}),
}
LAYER = 1

needs_mosaic = pytest.mark.skipif(
    jax.__version_info__ < OLDEST_JAX,
    reason=f"jax is {jax.__version__}, and lacks what Mosaic's kernels need",
)


def run(rows, w, **sizes):
    """The kernel with tiles of these sizes, compiled or interpreted."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    from pallas_kernels.matmul.quantized.mosaic import gemm
    from pallas_kernels.matmul.quantized.mosaic.tiles import GemmBlocks

    interpret = None if jax.default_backend() == "gpu" else plgpu.InterpretGPUParams()
    return gemm.multiply(rows, w, layer=LAYER, blocks=GemmBlocks(**sizes), interpret=interpret)


@needs_mosaic
@pytest.mark.parametrize("num_rows", [128, 200])
@pytest.mark.parametrize("name", KINDS)
def test_is_the_product_of_a_layer(rng, name, num_rows):
    """Also of rows that do not fill their tiles."""
    of, options = KINDS[name]
    w = of(jnp.asarray(rng.standard_normal((2, 384, 256)), jnp.float32), activations="dynamic")
    x = jnp.asarray(rng.standard_normal((num_rows, 384)), jnp.bfloat16)
    rows = quantize_rows(x, **options, implementation="reference")
    got = run(rows, w, tile_rows=64, tile_columns=128, num_stages=2)
    wanted = matmul(x, w, layer=LAYER, out_dtype=jnp.float32, implementation="reference")
    assert (got.shape, got.dtype) == ((num_rows, 256), jnp.bfloat16)
    assert relative_error(got, np.asarray(wanted)) < 3e-3


@needs_mosaic
@pytest.mark.parametrize(("tile_rows", "is_seamless"), [(64, False), (64, True), (128, False)])
def test_programs_take_several_tiles(rng, monkeypatch, tile_rows, is_seamless):
    """Two programs and more tiles, in any order of them."""
    from pallas_kernels.core import device
    from pallas_kernels.matmul.quantized.mosaic import gemm

    monkeypatch.setattr(gemm, "target_device", lambda: device.Device("cpu", 2))
    w = Int8Weight.of(jnp.asarray(rng.standard_normal((2, 256, 384)), jnp.float32), activations="dynamic")
    rows = quantize_rows(
        jnp.asarray(rng.standard_normal((384, 256)), jnp.float32), implementation="reference"
    )
    sizes = {"tile_rows": tile_rows, "tile_columns": 128, "num_stages": 2, "band": 2}
    got = run(rows, w, **sizes, is_seamless=is_seamless)
    sums = np.asarray(rows.values, np.int32) @ np.asarray(w.values[LAYER], np.int32).T
    wanted = sums * np.asarray(rows.scales).T * np.asarray(w.scales[LAYER])
    assert relative_error(got, wanted) < 3e-3


def test_what_it_leaves_out_is_said():
    why_not = functools.partial(mosaic.why_not, out_dtype=jnp.bfloat16)
    dynamic = functools.partial(Int8Weight.of, activations="dynamic")
    assert "activations 'float'" in why_not(Int8Weight.of(jnp.ones((128, 128))))
    assert "128 inputs and 130 outputs" in why_not(dynamic(jnp.ones((128, 130))))
    assert "results in float32" in mosaic.why_not(dynamic(jnp.ones((128, 128))), jnp.float32)
    if jax.default_backend() == "cpu":
        assert "the device is 'cpu'" in why_not(dynamic(jnp.ones((128, 128))))
