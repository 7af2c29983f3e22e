"""matmul with quantized weights and few rows: bound by reading the weights' bytes."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels.case import Case, Limit, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.core.weights import QuantizedWeight
from pallas_kernels.matmul import matmul
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.quantized import triton
from pallas_kernels.matmul.quantized.triton.launch import call_of
from pallas_kernels.matmul.quantized.tuning import quantized_candidates, quantized_key
from pallas_kernels.matmul.shapes import QUANTIZED_WEIGHTS, SHAPES, MatmulShape
from pallas_kernels.matmul.tuning import MatmulBlocks

ROWS = (1, 4, 16, 64)
LAYERS = {"qkv": False, "o": False, "gate-up": True, "down": False}  # and whether it is gated
SQUARES = {"8192": MatmulShape(8192, 8192), "4096-12288": MatmulShape(4096, 12288)}


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields the layers of Qwen3-8B, and two shapes that other projects publish figures of."""
    if smoke:
        yield _case("quantized-int4-smoke", "int4", 2, MatmulShape(256, 96), gated=False)
        return
    for kind in QUANTIZED_WEIGHTS:
        for rows in ROWS:
            for name, shape in SQUARES.items():
                yield _case(f"quantized-{kind}-{name}-b{rows}", kind, rows, shape, gated=False)
            for layer, gated in LAYERS.items():
                name = f"qwen3-8b-{layer}"
                yield _case(f"quantized-{kind}-{name}-b{rows}", kind, rows, SHAPES[name], gated=gated)


def _case(name: str, kind: str, rows: int, shape: MatmulShape, *, gated: bool) -> Case:
    w = jax.eval_shape(
        QUANTIZED_WEIGHTS[kind], jax.ShapeDtypeStruct((shape.num_in, shape.num_out), jnp.bfloat16)
    )
    x = jax.ShapeDtypeStruct((rows, shape.num_in), jnp.bfloat16)
    call = call_of(x, w, Fusion(gated=gated))
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(w))
    return Case(
        id=name,
        op="quantized_matmul.few_rows",
        shape=f"{rows} x {shape.num_in:,} -> {call.num_out:,}, {kind}{', gated' if gated else ''}",
        work=Work(num_bytes, 2 * rows * call.num_out),
        limit=Limit.READ,
        make=functools.partial(_make, kind, rows, shape),
        build=functools.partial(_pallas, gated),
        reference=functools.partial(_matmul, gated, "reference"),
        tuning=Tuning("matmul", "quantized", quantized_key(call), quantized_candidates(call)),
    )


def _make(kind: str, rows: int, shape: MatmulShape, data: Data, num_sets: int) -> Inputs:
    """The carry is x. Weights are those of one matrix: what lies in them does not decide the time."""
    w = data.normal((shape.num_in, shape.num_out), scale=shape.num_in**-0.5)
    quantize = jax.eval_shape if isinstance(w, jax.ShapeDtypeStruct) else _call
    sets: list[Any] = [quantize(QUANTIZED_WEIGHTS[kind], w) for _ in range(num_sets)]
    return Inputs(data.normal((rows, shape.num_in)), sets)


def _call(of: Callable[[jax.Array], QuantizedWeight], w: jax.Array) -> QuantizedWeight:
    return jax.jit(of)(w)


def _matmul(gated: bool, implementation, x: jax.Array, w: QuantizedWeight) -> tuple[jax.Array, jax.Array]:
    return x, matmul(x, w, gated=gated, implementation=implementation)


def _pallas(gated: bool, blocks: MatmulBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_matmul, gated, "triton")

    def step(x: jax.Array, w: QuantizedWeight) -> tuple[jax.Array, jax.Array]:
        return x, triton.matmul(
            x,
            w,
            layer=None,
            transposed=False,
            fusion=Fusion(gated=gated),
            out_dtype=x.dtype,
            blocks=blocks,
            interpret=should_interpret(None),
        )

    return step
