"""softmax."""

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.kernels.case import Case
from benchmarks.kernels.cases.rows import ITEMSIZE, row_case
from benchmarks.kernels.cases.theirs import jax_kernel
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.softmax import softmax, triton
from pallas_kernels.softmax.tuning import softmax_candidates, softmax_key

MAX_THEIR_FEATURES = 32768  # jax's kernel holds a row in four warps' registers


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields a matrix of 64 MiB, the experts of a router, and the vocabulary of Qwen3 for a batch of
    requests."""
    if smoke:
        yield _case("softmax", 6, 64)
        return
    yield _case("softmax", 8192, 4096)
    yield _case("softmax-128", 262144, 128)
    for rows in (8, 256):
        yield _case(f"softmax-{rows}x151936", rows, 151936)


def _case(name: str, rows: int, features: int) -> Case:
    def call(implementation, weights, activations):
        (x,) = activations
        return softmax(x, implementation=implementation)

    def call_with_blocks(blocks, weights, activations):
        (x,) = activations
        return triton.softmax(x, blocks=blocks, interpret=should_interpret(None))

    size = rows, features
    return row_case(
        name,
        "softmax.softmax",
        weights=(),
        activations=(size,),
        results=(size,),
        call=call,
        call_with_blocks=call_with_blocks,
        key=softmax_key(*size, ITEMSIZE),
        candidates=softmax_candidates(*size, ITEMSIZE),
        jax=_their_softmax(features),
    )


def _their_softmax(features: int) -> Callable[[Any, Any], Any] | None:
    kernel = jax_kernel("softmax")
    if kernel is None or features > MAX_THEIR_FEATURES:
        return None

    def call(weights, activations):
        (x,) = activations
        return kernel(x, interpret=should_interpret(None))

    return call
