"""The rows of the table: our product, what it is compared with, and the ratio of the machine's limits."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Int4Weight, Int8Weight, Mxfp4Weight
from pallas_kernels.matmul import matmul
from pallas_kernels.matmul.quantized import mosaic
from pallas_kernels.quantize import QuantizedRows, quantize_rows

Product = Callable[[Any, Any], jax.Array]
WEIGHT_BITS = {
    Int4Weight: 4 + 16 / 128,
    Mxfp4Weight: 4 + 8 / 32,
    Int8Weight: 8,
    Fp8Weight: 8,
    BlockFp8Weight: 8,
}


@dataclass(frozen=True)
class Shape:
    """x [rows, in] times w [in, out]."""

    rows: int
    num_in: int
    num_out: int


@dataclass(frozen=True)
class Contender:
    """A product by JAX, of what `prepare_x` and `prepare_w` make of floats before the time is taken."""

    prepare_x: Callable[[jax.Array], Any]
    prepare_w: Callable[[jax.Array], Any]
    multiply: Product


@dataclass(frozen=True)
class Row:
    """The id, the shapes of which the worse counts, and who competes.

    `ours` are alternatives of which the faster counts. `beside` names products of torch; where
    `is_beside_jax`, those of XLA and of the kernels in bfloat16 too. `limit` is the ratio at the
    machine's limits.
    """

    id: str
    shapes: tuple[Shape, ...]
    ours: Mapping[str, Contender]
    beside: tuple[str, ...]
    is_beside_jax: bool
    limit: float

    def on(self, shapes: tuple[Shape, ...]) -> "Row":
        return replace(self, shapes=shapes)


def as_it_is(x: jax.Array) -> jax.Array:
    return x


def turned(w: jax.Array) -> jax.Array:
    return w.T


def by(implementation: str, **options: Any) -> Product:
    return functools.partial(matmul, implementation=implementation, **options)


def weight_only(of: Callable[[jax.Array], Any]) -> Contender:
    return Contender(as_it_is, of, by("pallas"))


def before(dtype: Any, x: jax.Array, group_size: int | None = None) -> QuantizedRows:
    """Rows that were quantized before the time is taken."""
    return quantize_rows(x, dtype, group_size=group_size, implementation="xla")


BFLOAT16 = {
    "xla": Contender(as_it_is, as_it_is, by("xla")),
    "xla, [out, in]": Contender(as_it_is, turned, by("xla", transposed=True)),
    "triton": Contender(as_it_is, as_it_is, by("triton")),
}
INT8_DYNAMIC = functools.partial(Int8Weight.of, activations="dynamic")
FP8_DYNAMIC = functools.partial(Fp8Weight.of, activations="dynamic")
BLOCKS_DYNAMIC = functools.partial(BlockFp8Weight.of, activations="dynamic")
INT8_ROWS = functools.partial(before, jnp.int8)
FP8_ROWS = functools.partial(before, jnp.float8_e4m3fn)
WIDE = {"tile_rows": 64, "tile_columns": 256, "num_stages": 4}
SEAMLESS = functools.partial(mosaic.multiply, **WIDE, is_seamless=True)
CUBES = (Shape(4096, 4096, 4096), Shape(8192, 8192, 8192))


def decode_shapes(rows: int) -> tuple[Shape, ...]:
    return Shape(rows, 8192, 8192), Shape(rows, 4096, 12288)


def decode_row(name: str, rows: int, ours: Mapping[str, Contender], bits: float) -> Row:
    return Row(name, decode_shapes(rows), ours, ("bfloat16",), True, 16 / bits)


ROWS = [
    *(
        decode_row(f"w4-m{rows}", rows, {"int4": weight_only(Int4Weight.of)}, WEIGHT_BITS[Int4Weight])
        for rows in (1, 16, 64)
    ),
    *(
        decode_row(f"mxfp4-m{rows}", rows, {"mxfp4": weight_only(Mxfp4Weight.of)}, WEIGHT_BITS[Mxfp4Weight])
        for rows in (1, 16, 64)
    ),
    decode_row("w8-m16", 16, {"int8": weight_only(Int8Weight.of), "fp8": weight_only(Fp8Weight.of)}, 8),
    Row(
        "int8-static",
        CUBES,
        {"int8": Contender(INT8_ROWS, INT8_DYNAMIC, mosaic.multiply)},
        ("bfloat16",),
        False,
        2.0,
    ),
    *(
        Row(
            f"int8-dynamic-{shape.rows}",
            (shape,),
            {"int8": Contender(as_it_is, INT8_DYNAMIC, by("pallas"))},
            ("bfloat16",),
            False,
            2.0,
        )
        for shape in CUBES
    ),
    Row(
        "fp8-static",
        CUBES,
        {"fp8": Contender(FP8_ROWS, FP8_DYNAMIC, mosaic.multiply)},
        ("scaled_mm",),
        False,
        1.25,  # of the rate that scaled_mm reaches
    ),
    Row(
        "block-fp8-m4096",
        (Shape(4096, 7168, 4096),),
        {
            "fp8 of blocks": Contender(
                functools.partial(before, jnp.float8_e4m3fn, group_size=128), BLOCKS_DYNAMIC, mosaic.multiply
            )
        },
        ("bfloat16",),
        False,
        2.0,
    ),
    # The same with blocks that are not the kernel's choice, to see whether they should be.
    Row(
        "int8-static-seamless",
        CUBES,
        {"int8": Contender(INT8_ROWS, INT8_DYNAMIC, SEAMLESS)},
        ("bfloat16",),
        False,
        2.0,
    ),
    Row(
        "fp8-static-seamless",
        CUBES,
        {"fp8": Contender(FP8_ROWS, FP8_DYNAMIC, SEAMLESS)},
        ("scaled_mm",),
        False,
        1.25,
    ),
]
SMOKE_SHAPES = (Shape(2, 256, 128),)
