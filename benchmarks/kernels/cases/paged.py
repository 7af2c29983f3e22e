"""Rows of equal length in a paged cache: inputs of decode and extend, and their attention in JAX without a
kernel."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.kernels.case import Ratio
from benchmarks.kernels.data import Data
from pallas_kernels.paged_attention import AttentionOptions, KVPages
from pallas_kernels.paged_attention.shapes import AttentionShape

ITEMSIZE = 2  # bfloat16
SCALE_BYTES = 4  # float32
QUANTIZED = {"int8": "int8", "fp8": "float8_e4m3fn"}  # names of cases, and the dtypes of their caches


@dataclass(frozen=True)
class PagedRows:
    """`rows` rows of `positions` positions, of which the last `queries` have queries."""

    rows: int
    positions: int
    shape: AttentionShape
    queries: int = 1
    page_size: int = 16
    has_sinks: bool = False
    quantized: str | None = None  # the dtype of a cache in 8 bits

    def __str__(self) -> str:
        shape = self.shape
        asked = "" if self.queries == 1 else f"{self.queries:,} of "
        window = "" if shape.sliding_window is None else f", window {shape.sliding_window}"
        cap = "" if shape.soft_cap is None else f", cap {shape.soft_cap:g}"
        heads = f"{shape.num_heads}/{shape.num_kv_heads} heads of {shape.head_dim}"
        cache = "" if self.quantized is None else f", cache {self.quantized}"
        return f"{self.rows} x {asked}{self.positions:,}, {heads}, page {self.page_size}{window}{cap}{cache}"

    @property
    def pages_each(self) -> int:
        return -(-self.positions // self.page_size)

    @property
    def max_positions(self) -> int:
        """The positions that a row of the page table can hold."""
        return self.pages_each * self.page_size

    @property
    def options(self) -> AttentionOptions:
        return AttentionOptions(sliding_window=self.shape.sliding_window, soft_cap=self.shape.soft_cap)

    @property
    def kv_bytes(self) -> int:
        """The bytes of the keys and values that some query sees."""
        window = (
            self.positions
            if self.shape.sliding_window is None
            else self.shape.sliding_window + self.queries - 1
        )
        seen = min(self.positions, window)
        num_vectors = 2 * self.rows * seen * self.shape.num_kv_heads
        if self.quantized is None:
            return num_vectors * self.shape.head_dim * ITEMSIZE
        return num_vectors * (self.shape.head_dim * jnp.dtype(self.quantized).itemsize + SCALE_BYTES)

    @property
    def query_bytes(self) -> int:
        """The bytes of the queries, which are also those of the results."""
        return self.rows * self.queries * self.shape.num_heads * self.shape.head_dim * ITEMSIZE

    @property
    def flops(self) -> int:
        """The operations of the two products, over the (query, position) pairs that are visible."""
        visible = np.arange(self.positions - self.queries, self.positions) + 1
        if self.shape.sliding_window is not None:
            visible = np.minimum(visible, self.shape.sliding_window)
        return 4 * self.shape.head_dim * self.shape.num_heads * self.rows * int(visible.sum())

    def queries_from(self, data: Data):
        return data.normal((self.rows * self.queries, self.shape.num_heads, self.shape.head_dim))

    def cache_from(self, data: Data, scale: float = 1.0):
        """The pages, the null page included, and the page table."""
        num_pages = self.rows * self.pages_each + 1
        shape = (2, num_pages, self.page_size, self.shape.num_kv_heads, self.shape.head_dim)
        pages = KVPages(data.normal(shape, scale=scale))
        if self.quantized is not None:
            pages = data.quantized(pages, self.quantized)
        return pages, data.page_table(self.rows, self.pages_each)

    def lengths_from(self, data: Data):
        return data.integers(np.full(self.rows, self.positions))

    def sinks_from(self, data: Data):
        return data.normal((self.shape.num_heads,), jnp.float32) if self.has_sinks else None


def beside_16_bits(name: str, paged: PagedRows) -> Ratio | None:
    """Of a case whose cache is in 8 bits, the time relative to the same case in bfloat16."""
    for kind, dtype in QUANTIZED.items():
        if paged.quantized == dtype:
            return Ratio(f"kv8-{name.removesuffix('-int8')}", beside=name.removesuffix(f"-{kind}"))
    return None


def gathered_attention(
    q: Array, kv_pages: KVPages, page_table: Array, lengths: Array, sinks: Array | None, paged: PagedRows
) -> Array:
    """Attends to gathered pages, with scores, softmax and sums by XLA, in bfloat16 with float32 scores."""
    shape, rows, queries = paged.shape, paged.rows, paged.queries
    k, v = kv_pages.array[:, page_table].reshape(2, rows, -1, shape.num_kv_heads, shape.head_dim)
    grouped = q.reshape(rows, queries, shape.num_kv_heads, -1, shape.head_dim)
    scores = jnp.einsum("rqkgd,rpkd->rkgqp", grouped, k, preferred_element_type=jnp.float32)
    scores = scores / math.sqrt(shape.head_dim)
    if shape.soft_cap is not None:
        scores = shape.soft_cap * jnp.tanh(scores / shape.soft_cap)
    position = jnp.arange(k.shape[1])
    query_position = lengths[:, None] - queries + jnp.arange(queries)
    seen = position <= query_position[..., None]
    if shape.sliding_window is not None:
        seen &= position > query_position[..., None] - shape.sliding_window
    scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
    if sinks is not None:
        sink = sinks.reshape(1, shape.num_kv_heads, -1, 1, 1)
        scores = jnp.concatenate([scores, jnp.broadcast_to(sink, (*scores.shape[:-1], 1))], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., : k.shape[1]].astype(q.dtype)
    return jnp.einsum("rkgqp,rpkd->rqkgd", weights, v).reshape(q.shape)
