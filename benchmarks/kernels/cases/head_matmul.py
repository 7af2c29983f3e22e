"""head_matmul: bound by reading the rows of the heads for few tokens, and by the matmul rate for many."""

import functools
from collections.abc import Iterator
from typing import Any

from benchmarks.kernels.case import Case, Limit, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.head_matmul import head_matmul, triton
from pallas_kernels.head_matmul.shapes import SHAPES, HeadMatmulShape
from pallas_kernels.head_matmul.tuning import (
    HeadMatmulBlocks,
    HeadMatmulCall,
    head_matmul_candidates,
    head_matmul_key,
)

ITEMSIZE = 2
NUM_LAYERS = 2


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields both products of a layer of latent attention, of decode steps and of a prompt."""
    if smoke:
        yield _case("head-matmul-keys-5", 5, SHAPES["tiny"], is_of_values=False)
        return
    for model in ("deepseek-v2-lite", "deepseek-v3"):
        for tokens in (1, 64, 4096):
            yield _case(f"head-matmul-{model}-keys-{tokens}", tokens, SHAPES[model], is_of_values=False)
            yield _case(f"head-matmul-{model}-values-{tokens}", tokens, SHAPES[model], is_of_values=True)


def _case(name: str, tokens: int, shape: HeadMatmulShape, *, is_of_values: bool) -> Case:
    first, end = (shape.nope_dim, shape.nope_dim + shape.value_dim) if is_of_values else (0, shape.nope_dim)
    inputs, outputs = (shape.latent_dim, end - first) if is_of_values else (end - first, shape.latent_dim)
    heads = shape.num_heads
    call = HeadMatmulCall(tokens, heads, inputs, outputs, int(is_of_values), ITEMSIZE)
    options = {"layer": NUM_LAYERS - 1, "rows": (first, end), "transposed": is_of_values}
    return Case(
        id=name,
        op="head_matmul.head_matmul",
        shape=f"{tokens:,} tokens, {heads} heads, {inputs} to {outputs}",
        work=Work(
            read_bytes=ITEMSIZE * heads * inputs * (outputs + tokens),
            written_bytes=ITEMSIZE * heads * tokens * outputs,
            flops=2 * tokens * heads * inputs * outputs,
        ),
        limit=Limit.TIGHTER,
        make=functools.partial(_make, tokens, shape, inputs),
        build=functools.partial(_pallas, options),
        reference=functools.partial(_call, options, "reference"),
        xla=functools.partial(_call, options, "reference"),
        is_latency=tokens == 1,
        tuning=Tuning("head_matmul", "head_matmul", head_matmul_key(call), head_matmul_candidates(call)),
    )


def _make(tokens: int, shape: HeadMatmulShape, inputs: int, data: Data, num_sets: int) -> Inputs:
    rows = shape.num_heads * (shape.nope_dim + shape.value_dim)
    sets = [
        (
            data.normal((tokens, shape.num_heads, inputs)),
            data.normal((NUM_LAYERS, rows, shape.latent_dim)),
        )
        for _ in range(num_sets)
    ]
    return Inputs((), sets)


def _call(options: dict[str, Any], implementation: Implementation, carry, arguments):
    return carry, head_matmul(*arguments, **options, implementation=implementation)


def _pallas(options: dict[str, Any], blocks: HeadMatmulBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, options, "pallas")

    def step(carry, arguments):
        interpret = should_interpret(None)
        return carry, triton.head_matmul(*arguments, **options, blocks=blocks, interpret=interpret)

    return step
