"""matmul: bound by reading the weights.

XLA's side is the implementation "xla", with the norm, the gate and the residual.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.kernels.case import Case, Limit, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.matmul import MAX_NORM_ROWS, matmul, triton
from pallas_kernels.matmul.contract import Fusion
from pallas_kernels.matmul.shapes import SHAPES, MatmulShape
from pallas_kernels.matmul.tuning import MatmulBlocks, MatmulCall, matmul_candidates, matmul_key

EPSILON = 1e-6
ITEMSIZE = 2
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
MODELS = ("qwen3-0.6b", "qwen3-8b")


@dataclass(frozen=True)
class Fused:
    """The operations that a model fuses to a product."""

    norm: bool = False
    gated: bool = False
    residual: bool = False


# By the end of a layer's name, and of the suffix of the case that has them.
FUSED = {
    "qkv": Fused(norm=True),
    "o": Fused(residual=True),
    "gate-up": Fused(norm=True, gated=True),
    "down": Fused(residual=True),
    "head": Fused(norm=True),
}


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields the linear layers of Qwen3 at the rows of a small decode step, alone and with the operations
    that can be fused."""
    if smoke:
        yield _case("matmul-smoke", 2, MatmulShape(64, 96), Fused())
        return
    for model in MODELS:
        for layer, fused in FUSED.items():
            for rows in ROWS:
                name, shape = f"{model}-{layer}", SHAPES[f"{model}-{layer}"]
                yield _case(f"matmul-{name}-b{rows}", rows, shape, Fused())
                if rows > MAX_NORM_ROWS:
                    fused = Fused(gated=fused.gated, residual=fused.residual)
                if fused != Fused():
                    yield _case(f"matmul-{name}-b{rows}-fused", rows, shape, fused)


def _case(name: str, rows: int, shape: MatmulShape, fused: Fused) -> Case:
    layout = "out, in" if shape.transposed else "in, out"
    num_out = shape.num_out // (2 if fused.gated else 1)
    call = MatmulCall(rows, shape.num_in, num_out, shape.transposed, fused.gated, fused.norm, ITEMSIZE)
    suffix = "".join(f", {name}" for name in ("norm", "gated", "residual") if getattr(fused, name))
    return Case(
        id=name,
        op="matmul.matmul",
        shape=f"{rows} x {shape.num_in:,} -> {num_out:,}, [{layout}]{suffix}",
        work=Work(ITEMSIZE * shape.num_in * shape.num_out, ITEMSIZE * rows * num_out),
        limit=Limit.READ,
        make=functools.partial(_make, rows, shape, fused),
        build=functools.partial(_pallas, shape.transposed, fused),
        reference=functools.partial(
            _matmul, shape.transposed, fused, functools.partial(matmul, implementation="reference")
        ),
        xla=functools.partial(
            _matmul, shape.transposed, fused, functools.partial(matmul, implementation="xla")
        ),
        tuning=Tuning("matmul", "matmul", matmul_key(call), matmul_candidates(call)),
    )


def _make(rows: int, shape: MatmulShape, fused: Fused, data: Data, num_sets: int) -> Inputs:
    """The carry is x, the norm's scale, and the residual."""
    size = (shape.num_out, shape.num_in) if shape.transposed else (shape.num_in, shape.num_out)
    num_out = shape.num_out // (2 if fused.gated else 1)
    carry = (
        data.normal((rows, shape.num_in)),
        data.normal((shape.num_in,)) if fused.norm else None,
        data.normal((rows, num_out)) if fused.residual else None,
    )
    return Inputs(carry, [data.normal(size, scale=shape.num_in**-0.5) for _ in range(num_sets)])


def _matmul(transposed: bool, fused: Fused, function: Callable, carry, w):
    x, scale, residual = carry
    norm = (scale, EPSILON) if fused.norm else None
    return carry, function(x, w, transposed=transposed, norm=norm, gated=fused.gated, residual=residual)


def _pallas(transposed: bool, fused: Fused, blocks: MatmulBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(
            _matmul, transposed, fused, functools.partial(matmul, implementation="triton")
        )

    def step(carry, w):
        x, scale, residual = carry
        norm = (scale, EPSILON) if fused.norm else None
        fusion = Fusion(norm=norm, gated=fused.gated, residual=residual)
        interpret = should_interpret(None)
        return carry, triton.matmul(
            x,
            w,
            layer=None,
            transposed=transposed,
            fusion=fusion,
            out_dtype=x.dtype,
            blocks=blocks,
            interpret=interpret,
        )

    return step
