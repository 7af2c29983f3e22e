"""Random paged caches for the attention tests, with NaN wherever a kernel has no business."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from pallas_kernels.paged_attention import AnyKVPages, AttentionOptions, KVPages, QuantizedKVPages
from pallas_kernels.paged_attention.shapes import AttentionShape


@dataclass(frozen=True, eq=False)
class PagedCase:
    """Rows of the given lengths in permuted pages, with one query token each, or many where there are
    query_starts."""

    shape: AttentionShape
    q: np.ndarray
    kv_pages: np.ndarray
    page_table: np.ndarray
    lengths: np.ndarray
    query_starts: np.ndarray | None
    sinks: np.ndarray | None
    dense: list[np.ndarray]  # keys and values [2, length, num_kv_heads, head_dim] of each row
    quantized: np.dtype | None = None  # of a cache in 8 bits, whose vectors `kv_pages` and `dense` are

    @property
    def options(self) -> AttentionOptions:
        return AttentionOptions(sliding_window=self.shape.sliding_window, soft_cap=self.shape.soft_cap)

    def arguments(self, dtype: jnp.dtype) -> list[jnp.ndarray | AnyKVPages]:
        """What `decode`, or `extend` where there are query_starts, takes."""
        starts = [] if self.query_starts is None else [jnp.asarray(self.query_starts)]
        q, kv_pages = jnp.asarray(self.q, dtype), self.pages(dtype)
        return [q, kv_pages, jnp.asarray(self.page_table), *starts, jnp.asarray(self.lengths)]

    def pages(self, dtype: jnp.dtype) -> AnyKVPages:
        """The cache of queries of this dtype."""
        if self.quantized is None:
            return KVPages(jnp.asarray(self.kv_pages, dtype))
        values, scales = quantize(self.kv_pages, self.quantized)
        scales = np.swapaxes(scales, -1, -2)
        return QuantizedKVPages(jnp.asarray(values), jnp.asarray(scales), jnp.dtype(dtype))

    def keywords(self) -> dict[str, object]:
        """The attention options, and sinks where the shape has them."""
        sinks = None if self.sinks is None else jnp.asarray(self.sinks)
        return {"options": self.options, "sinks": sinks}


def make_case(
    rng: np.random.Generator,
    shape: AttentionShape,
    lengths: list[int],
    page_size: int,
    query_lengths: list[int] | None = None,
    num_padding_tokens: int = 0,
    spare_pages: int = 1,
) -> PagedCase:
    """Fills the cache at the rows' positions; every other element, page tails and the null page included, is
    NaN.

    The page table has `spare_pages` entries more than the longest row needs.
    """
    max_pages = -(-max([*lengths, 1]) // page_size) + spare_pages
    num_pages = len(lengths) * max_pages + 1
    page_table = (rng.permutation(num_pages - 1) + 1).reshape(len(lengths), max_pages).astype(np.int32)
    kv_pages = np.full((2, num_pages, page_size, shape.num_kv_heads, shape.head_dim), np.nan, np.float32)
    dense = []
    for row, length in enumerate(lengths):
        values = rng.standard_normal((2, length, shape.num_kv_heads, shape.head_dim), np.float32)
        position = np.arange(length)
        kv_pages[:, page_table[row, position // page_size], position % page_size] = values
        dense.append(values)
    query_starts = None
    num_tokens = len(lengths)
    if query_lengths is not None:
        query_starts = np.concatenate([[0], np.cumsum(query_lengths)]).astype(np.int32)
        num_tokens = int(query_starts[-1]) + num_padding_tokens
    q = rng.standard_normal((num_tokens, shape.num_heads, shape.head_dim), np.float32)
    sinks = rng.standard_normal(shape.num_heads, np.float32) * 2 if shape.sinks else None
    return PagedCase(shape, q, kv_pages, page_table, np.array(lengths, np.int32), query_starts, sinks, dense)


def in_8_bits(case: PagedCase, dtype: np.dtype) -> PagedCase:
    """The case with a cache of this dtype, whose keys and values are what its own become in it."""
    dense = [dequantize(*quantize(x, dtype)) for x in case.dense]
    pages = dequantize(*quantize(case.kv_pages, dtype))
    return replace(case, dense=dense, kv_pages=pages, quantized=np.dtype(dtype))


def quantize(x: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Values and scales by their definition: the largest element is 127, or 448, times the scale. A vector
    with a NaN has no value that means anything."""
    largest = np.float32(127 if dtype == np.int8 else 448)
    amax = np.abs(x).max(-1, keepdims=True)
    scaled = x * np.divide(largest, amax, out=np.zeros_like(amax), where=amax != 0)
    if dtype == np.int8:
        scaled = np.rint(np.nan_to_num(scaled, nan=77))
    return scaled.astype(dtype), (amax / largest)[..., 0]


def dequantize(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) * scales[..., None]


def oracle(case: PagedCase, dtype: jnp.dtype = jnp.float32) -> np.ndarray:
    """The definition for inputs rounded to `dtype`, in float64 over the dense keys and values, one query at a
    time."""
    q, *dense = (np.asarray(jnp.asarray(x, dtype), np.float32) for x in (case.q, *case.dense))
    dense = dense if case.quantized is None else case.dense
    out = np.zeros_like(q, np.float64)
    for row, length in enumerate(case.lengths):
        if case.query_starts is None:
            queries = {row: length}
        else:
            begin, end = case.query_starts[row], case.query_starts[row + 1]
            queries = {token: length - (end - 1 - token) for token in range(begin, end)}
        for token, num_visible in queries.items():
            out[token] = _attend(q[token], dense[row][:, :num_visible], case.shape, case.sinks)
    return out


def _attend(q: np.ndarray, kv: np.ndarray, shape: AttentionShape, sinks: np.ndarray | None) -> np.ndarray:
    window = shape.sliding_window or kv.shape[1]
    keys, values = kv[:, max(0, kv.shape[1] - window) :].astype(np.float64)
    out = np.zeros(q.shape)
    for head in range(shape.num_heads if len(keys) else 0):
        kv_head = head * shape.num_kv_heads // shape.num_heads
        scores = keys[:, kv_head] @ q[head] / np.sqrt(shape.head_dim)
        if shape.soft_cap is not None:
            scores = shape.soft_cap * np.tanh(scores / shape.soft_cap)
        sink = -np.inf if sinks is None else sinks[head]
        top = max(scores.max(), sink)
        weights = np.exp(scores - top)
        out[head] = weights @ values[:, kv_head] / (weights.sum() + np.exp(sink - top))
    return out


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """|got - wanted| / |wanted| in the Euclidean norm; NaN anywhere in `got` gives NaN."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))
