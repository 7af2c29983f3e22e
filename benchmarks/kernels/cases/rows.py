"""The cases of ops that work row by row: activations in and out, bound by copying, and weights that all calls
share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.kernels.case import Baseline, Case, Limit, Target, Tuning, Work
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation

ITEMSIZE = 2  # bfloat16
Operands = tuple[tuple[int, ...], ...]  # shapes


def row_case(
    name: str,
    op: str,
    *,
    weights: Operands,
    activations: Operands,
    results: Operands,
    call: Callable[[Implementation, Any, Any], Any],
    call_with_blocks: Callable[[Any, Any, Any], Any],
    key: dict[str, int | str],
    candidates: Sequence[Any],
    xla: Callable[[Any, Any], Any] | None = None,
    jax: Callable[[Any, Any], Any] | None = None,
    target: Target | None = None,
) -> Case:
    """A case of `op` ("folder.function"), whose calls take (implementation or blocks, weights, activations).

    XLA is given the reference, or `xla` where that is not what one would write for speed.
    """
    make = functools.partial(_make, weights, activations)
    folder, function = op.split(".")

    def step_of(call: Callable[[Any, Any], Any]) -> Step:
        return lambda weights, activations: (weights, call(weights, activations))

    def build(blocks: Any) -> Step:
        return step_of(
            functools.partial(call, "pallas")
            if blocks is None
            else functools.partial(call_with_blocks, blocks)
        )

    plain = step_of(functools.partial(call, "reference"))
    return Case(
        id=name,
        op=op,
        shape=" and ".join(" x ".join(f"{size:,}" for size in shape) for shape in dict.fromkeys(activations)),
        work=Work(_num_bytes(activations), _num_bytes(results)),
        limit=Limit.COPY,
        make=make,
        build=build,
        reference=plain,
        xla=plain if xla is None else step_of(xla),
        jax=None if jax is None else Baseline(make, {"": step_of(jax)}),
        target=target,
        tuning=Tuning(folder, function, key, candidates),
    )


def _make(weights: Operands, activations: Operands, data: Data, num_sets: int) -> Inputs:
    return Inputs(
        tuple(data.normal(shape) for shape in weights),
        [tuple(data.normal(shape) for shape in activations) for _ in range(num_sets)],
    )


def _num_bytes(operands: Operands) -> int:
    total = 0
    for shape in operands:
        total += ITEMSIZE * functools.reduce(int.__mul__, shape)
    return total
