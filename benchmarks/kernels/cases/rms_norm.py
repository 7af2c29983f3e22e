"""rms_norm and add_rms_norm."""

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp

from benchmarks.kernels.case import Case, Target
from benchmarks.kernels.cases.rows import ITEMSIZE, row_case
from benchmarks.kernels.cases.theirs import jax_kernel
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.rms_norm import add_rms_norm, rms_norm, triton
from pallas_kernels.rms_norm.tuning import (
    add_rms_norm_candidates,
    add_rms_norm_key,
    rms_norm_candidates,
    rms_norm_key,
)

EPSILON = 1e-6


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields matrices of 64 MiB, then widths of models, then the rows of a decode step."""
    target = Target(80, "%")
    if smoke:
        yield _rms_norm("rms-norm", 6, 64, target)
        yield _add_rms_norm("add-rms-norm", 6, 64)
        return
    yield _rms_norm("rms-norm", 8192, 4096, target)
    for features in (128, 1024, 5120):
        yield _rms_norm(f"rms-norm-{features}", (1 << 25) // features, features)
    yield _add_rms_norm("add-rms-norm", 8192, 4096)
    yield _add_rms_norm("add-rms-norm-1024", 32768, 1024)
    for rows in (1, 64):
        yield _rms_norm(f"rms-norm-{rows}x4096", rows, 4096)
        yield _add_rms_norm(f"add-rms-norm-{rows}x4096", rows, 4096)


def _rms_norm(name: str, rows: int, features: int, target: Target | None = None) -> Case:
    def call(implementation, weights, activations):
        (x,), (weight,) = activations, weights
        return rms_norm(x, weight, epsilon=EPSILON, implementation=implementation)

    def call_with_blocks(blocks, weights, activations):
        (x,), (weight,) = activations, weights
        return triton.rms_norm(x, weight, EPSILON, blocks=blocks, interpret=should_interpret(None))

    size = rows, features
    return row_case(
        name,
        "rms_norm.rms_norm",
        weights=((features,),),
        activations=(size,),
        results=(size,),
        call=call,
        call_with_blocks=call_with_blocks,
        key=rms_norm_key(*size, ITEMSIZE),
        candidates=rms_norm_candidates(*size, ITEMSIZE),
        jax=_their_rms_norm(),
        target=target,
    )


def _their_rms_norm() -> Callable[[Any, Any], Any] | None:
    """jax's kernel, which has a bias as well and needs a batch axis."""
    kernel = jax_kernel("rms_norm")
    if kernel is None:
        return None

    def call(weights, activations):
        (x,), (weight,) = activations, weights
        return kernel(x[None], weight, jnp.zeros_like(weight), eps=EPSILON, interpret=should_interpret(None))[
            0
        ]

    return call


def _add_rms_norm(name: str, rows: int, features: int) -> Case:
    def call(implementation, weights, activations):
        (x, residual), (weight,) = activations, weights
        return add_rms_norm(x, residual, weight, epsilon=EPSILON, implementation=implementation)

    def call_with_blocks(blocks, weights, activations):
        (x, residual), (weight,) = activations, weights
        return triton.add_rms_norm(
            x, residual, weight, EPSILON, blocks=blocks, interpret=should_interpret(None)
        )

    def plain_pair(weights, activations):
        """The sum and its norm as XLA fuses them best: the reference's rounding of the sum makes XLA read the
        operands twice."""
        (x, residual), (weight,) = activations, weights
        new_residual = x + residual
        return rms_norm(new_residual, weight, epsilon=EPSILON, implementation="reference"), new_residual

    size = rows, features
    return row_case(
        name,
        "rms_norm.add_rms_norm",
        weights=((features,),),
        activations=(size, size),
        results=(size, size),
        call=call,
        call_with_blocks=call_with_blocks,
        key=add_rms_norm_key(*size, ITEMSIZE),
        candidates=add_rms_norm_candidates(*size, ITEMSIZE),
        xla=plain_pair,
    )
