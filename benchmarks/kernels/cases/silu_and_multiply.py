"""silu_and_multiply."""

from collections.abc import Iterator

from benchmarks.kernels.case import Case
from benchmarks.kernels.cases.rows import ITEMSIZE, row_case
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.silu_and_multiply import silu_and_multiply, triton
from pallas_kernels.silu_and_multiply.tuning import silu_and_multiply_candidates, silu_and_multiply_key


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields the rows of a prefill and of a decode step, in widths of Qwen3."""
    if smoke:
        yield _case("silu-and-multiply", 6, 48)
        return
    yield _case("silu-and-multiply", 4096, 12288)
    yield _case("silu-and-multiply-3072", 8192, 3072)
    for rows in (1, 64):
        yield _case(f"silu-and-multiply-{rows}x12288", rows, 12288)


def _case(name: str, rows: int, hidden: int) -> Case:
    def call(implementation, weights, activations):
        (gate_up,) = activations
        return silu_and_multiply(gate_up, implementation=implementation)

    def call_with_blocks(blocks, weights, activations):
        (gate_up,) = activations
        return triton.silu_and_multiply(gate_up, blocks=blocks, interpret=should_interpret(None))

    facts = rows, hidden, ITEMSIZE
    return row_case(
        name,
        "silu_and_multiply.silu_and_multiply",
        weights=(),
        activations=((rows, 2 * hidden),),
        results=((rows, hidden),),
        call=call,
        call_with_blocks=call_with_blocks,
        key=silu_and_multiply_key(*facts),
        candidates=silu_and_multiply_candidates(*facts),
    )
