"""layer_norm."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.kernels.case import Case
from benchmarks.kernels.cases.rows import ITEMSIZE, row_case
from benchmarks.kernels.cases.theirs import jax_kernel
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.layer_norm import layer_norm, triton
from pallas_kernels.layer_norm.tuning import layer_norm_candidates, layer_norm_key

EPSILON = 1e-5


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields matrices of 64 MiB in widths of models."""
    if smoke:
        yield _case("layer-norm", 6, 64)
        return
    yield _case("layer-norm", 8192, 4096)
    for features in (768, 2560):
        yield _case(f"layer-norm-{features}", (1 << 25) // features, features)


def _case(name: str, rows: int, features: int) -> Case:
    def call(implementation, weights, activations):
        (x,), (weight, bias) = activations, weights
        return layer_norm(x, weight, bias, epsilon=EPSILON, implementation=implementation)

    def call_with_blocks(blocks, weights, activations):
        (x,), (weight, bias) = activations, weights
        return triton.layer_norm(x, weight, bias, EPSILON, blocks=blocks, interpret=should_interpret(None))

    size = rows, features
    return row_case(
        name,
        "layer_norm.layer_norm",
        weights=((features,), (features,)),
        activations=(size,),
        results=(size,),
        call=call,
        call_with_blocks=call_with_blocks,
        key=layer_norm_key(*size, ITEMSIZE),
        candidates=layer_norm_candidates(*size, ITEMSIZE),
        jax=_their_layer_norm(),
    )


def _their_layer_norm() -> Callable[[Any, Any], Any] | None:
    """jax's kernel, which needs a batch axis."""
    kernel = jax_kernel("layer_norm")
    if kernel is None:
        return None

    def call(weights, activations):
        (x,), (weight, bias) = activations, weights
        return kernel(x[None], weight, bias, eps=EPSILON, interpret=should_interpret(None))[0]

    return call
