"""matvec: bound by reading the weights."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp

from benchmarks.kernels.case import Case, Limit, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.matvec import matvec, triton
from pallas_kernels.matvec.shapes import SHAPES, LinearShape
from pallas_kernels.matvec.tuning import Blocks, matvec_candidates, matvec_key
from pallas_kernels.selection import Implementation, should_interpret

ITEMSIZE = 2


def cases(*, smoke: bool) -> Iterator[Case]:
    """The linear layers of Qwen3 at the batch sizes of a small decode step."""
    if smoke:
        yield _case("matvec-smoke", 2, LinearShape(64, 96))
        return
    for name, shape in SHAPES.items():
        for batch in (1, 2, 4, 8) if name.startswith(("qwen3-0.6b", "qwen3-8b")) else ():
            yield _case(f"matvec-{name}-b{batch}", batch, shape)


def _case(name: str, batch: int, shape: LinearShape) -> Case:
    layout = "out, in" if shape.transposed else "in, out"
    facts = batch, shape.num_in, shape.num_out, shape.transposed, ITEMSIZE
    return Case(
        id=name,
        op="matvec.matvec",
        shape=f"{batch} x {shape.num_in:,} -> {shape.num_out:,}, [{layout}]",
        work=Work(ITEMSIZE * shape.num_in * shape.num_out, ITEMSIZE * batch * shape.num_out),
        limit=Limit.READ,
        make=functools.partial(_make, batch, shape),
        build=functools.partial(_pallas, shape.transposed),
        reference=functools.partial(_call, shape.transposed, "reference"),
        xla=functools.partial(_dot, shape.transposed),
        tuning=Tuning("matvec", "matvec", matvec_key(*facts), matvec_candidates(*facts)),
    )


def _make(batch: int, shape: LinearShape, data: Data, num_sets: int) -> Inputs:
    size = (shape.num_out, shape.num_in) if shape.transposed else (shape.num_in, shape.num_out)
    return Inputs(data.normal((batch, shape.num_in)), [data.normal(size) for _ in range(num_sets)])


def _call(transposed: bool, implementation: Implementation, x, w):
    return x, matvec(x, w, transposed=transposed, implementation=implementation)


def _pallas(transposed: bool, blocks: Blocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, transposed, "pallas")

    def step(x, w):
        return x, triton.matvec(x, w, None, transposed, x.dtype, blocks=blocks, interpret=should_interpret(None))

    return step


def _dot(transposed: bool, x, w):
    return x, jnp.dot(x, w.T if transposed else w)
