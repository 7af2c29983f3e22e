"""Results of attention on their way to memory: the attention itself, or what `splits.merge_splits` merges."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.online_softmax import KernelShape, normalized


def store_attention(
    result_refs,
    carry: tuple[Array, Array, Array],
    *,
    row: Array,
    head: Array,
    is_query: Array,
    split: Array,
    shape: KernelShape,
    normalize: Callable[[Array, Array], Array] = normalized,
) -> None:
    """Partial results where there are three to store, else the attention itself, of queries `head` [queries].

    `row` is their row of the result, one for all or [queries]. Every element has an address of its own, also
    where it is no query: interpret mode writes the old value back to it.
    """
    acc, top, total = carry
    column = jnp.arange(acc.shape[1])
    inside = is_query[:, None] & (column < shape.head_dim)[None, :]
    rows = row[:, None] if row.ndim else row
    if len(result_refs) == 1:
        (out_ref,) = result_refs
        out = normalize(acc, total).astype(out_ref.dtype)
        plt.store(out_ref.at[rows, head[:, None], column[None, :]], out, mask=inside)
        return
    acc_ref, top_ref, total_ref = result_refs
    plt.store(acc_ref.at[rows, head[:, None], split, column[None, :]], acc, mask=inside)
    plt.store(top_ref.at[row, head, split], top, mask=is_query)
    plt.store(total_ref.at[row, head, split], total, mask=is_query)
