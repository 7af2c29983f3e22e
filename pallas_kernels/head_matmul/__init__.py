"""A matrix product for each head, with rows that the heads have in one weight of a stack of layers.

Latent attention in the absorbed form (DeepSeek-AI, "DeepSeek-V2", 2024) multiplies each head's query with
some rows of the head and what it attends to with others.
"""

import functools
from collections.abc import Callable

from jaxtyping import Array, Float, Int32

from pallas_kernels.core.selection import Implementation, UnsupportedError, select, should_interpret
from pallas_kernels.head_matmul import reference, triton

__all__ = ["head_matmul"]


def head_matmul(
    x: Float[Array, "tokens num_heads at_least_in"],
    weight: Float[Array, "layers num_heads_times_rows columns"],
    *,
    layer: int | Int32[Array, ""],
    rows: tuple[int, int],
    transposed: bool = False,
    implementation: Implementation = "auto",
    interpret: bool | None = None,
) -> Float[Array, "tokens num_heads out"]:
    """x[token, head, :in] @ w[head], where w[head] are the rows from rows[0] to below rows[1] of those that
    the head has in weight[layer]; or, where it is `transposed`, x[token, head, :in] @ w[head].T.

    So `in` is the number of these rows, and `out` that of the columns, or the other way round. Heads have as
    many rows each, one head after the other. What x has behind `in` is not read. Products are summed in
    float32 and rounded once, to the dtype of x.

    The weight is read where it lies, which XLA's product of a slice of a slice is not: it copies it first.

    Raises ValueError where shapes contradict each other, and UnsupportedError where `implementation` cannot
    serve them.
    """
    _check(x, weight, rows, transposed)
    multiply: Callable[..., Array]
    if select(implementation) == "reference":
        multiply = reference.head_matmul
    else:
        multiply = functools.partial(triton.head_matmul, interpret=should_interpret(interpret))
    return multiply(x, weight, layer=layer, rows=rows, transposed=transposed)


def _check(x: Array, weight: Array, rows: tuple[int, int], transposed: bool) -> None:
    num_heads, (first, end) = x.shape[1], rows
    if weight.ndim != 3 or weight.shape[1] % num_heads:
        raise ValueError(
            f"weight has shape {weight.shape}; it must be (layers, rows, columns), with as many rows for "
            f"each of {num_heads} heads"
        )
    rows_each = weight.shape[1] // num_heads
    if not 0 <= first < end <= rows_each:
        raise ValueError(f"rows {first} to {end} are not among the {rows_each} of a head")
    num_inputs = weight.shape[2] if transposed else end - first
    if x.shape[2] < num_inputs:
        raise ValueError(f"x has {x.shape[2]} elements a head, and {num_inputs} are multiplied")
    if x.dtype != weight.dtype:
        raise UnsupportedError(
            f"x in {x.dtype} and a weight in {weight.dtype}: no implementation mixes dtypes"
        )
