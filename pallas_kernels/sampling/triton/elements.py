"""Logits that a program goes over in chunks: the slices that matter, or what was collected from them."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from jax.experimental.pallas import triton as plt
from jaxtyping import Array

from pallas_kernels.core.triton_call import ceil_div
from pallas_kernels.sampling.triton.row import Row


class Elements(Protocol):
    """`load` gives the logits and the columns of a chunk; a logit of -inf is none."""

    @property
    def size(self) -> int: ...

    @property
    def num_chunks(self) -> Array: ...

    def load(self, chunk: Array) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Slices:
    """The slices whose numbers are the first `count` of order_ref[row]."""

    row: Row
    order_ref: Any
    count: Array
    slice_size: int
    slices_per_chunk: int

    @property
    def size(self) -> int:
        return self.slice_size * self.slices_per_chunk

    @property
    def num_chunks(self) -> Array:
        return ceil_div(self.count, self.slices_per_chunk)

    def load(self, chunk: Array) -> tuple[Array, Array]:
        lane = jnp.arange(self.size)
        index = chunk * self.slices_per_chunk + (lane >> (self.slice_size.bit_length() - 1))
        inside = index < self.count
        number = plt.load(self.order_ref.at[self.row.index, index], mask=inside, other=0)
        column = number * self.slice_size + (lane & (self.slice_size - 1))
        column = jnp.where(inside, column, self.row.vocab_size)
        return self.row.allowed(column), column


@dataclass(frozen=True)
class Candidates:
    """The first `count` of logits_ref[row] and columns_ref[row]."""

    row: Row
    logits_ref: Any
    columns_ref: Any
    count: Array
    size: int

    @property
    def num_chunks(self) -> Array:
        return ceil_div(self.count, self.size)

    def load(self, chunk: Array) -> tuple[Array, Array]:
        index = chunk * self.size + jnp.arange(self.size)
        inside = index < self.count
        logits = plt.load(self.logits_ref.at[self.row.index, index], mask=inside, other=-jnp.inf)
        return logits, plt.load(self.columns_ref.at[self.row.index, index], mask=inside, other=0)
