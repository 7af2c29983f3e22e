"""Attention over a paged KV cache: `decode` (one query token per row), `append_and_decode` (with norm,
rotation and cache write before it) and `extend` (many, ragged, causal).

The cache is `KVPages`, or in 8 bits `QuantizedKVPages`, and a page table lists, in order, the pages of each
row, so that rows of any length share one allocation (Kwon et al., "Efficient Memory Management for Large
Language Model Serving with PagedAttention", 2023). All of them compute, for a query q at position p of its
row and with `window = sliding_window or infinity`,

    s[j] = cap(scale * q . k[j])   for max(0, p - window + 1) <= j <= p
    out  = sum_j exp(s[j]) * v[j] / (sum_j exp(s[j]) + exp(sink))

    cap(x) = soft_cap * tanh(x / soft_cap), or x without a soft cap;  exp(sink) is absent without sinks

in float32 with the online softmax of Dao et al., "FlashAttention" (2022), and decode splits a row's positions
over programs as in "Flash-Decoding" (Dao et al., 2023). Grouped-query attention: query head h reads KV head h
// (num_heads // num_kv_heads). An attention sink is a learned score per query head that takes its share of
the softmax and has no value ("gpt-oss" model card, OpenAI, 2025).

Positions that no query of a row may see (the tail of its last page, pages of others, the null page) are never
read, or read and discarded before they meet a value that counts: they may hold NaN.
"""

from pallas_kernels.core.kv_pages import AnyKVPages, KVPages, QuantizedKVPages
from pallas_kernels.paged_attention.append_and_decode import append_and_decode
from pallas_kernels.paged_attention.contract import PLAIN, AttentionOptions
from pallas_kernels.paged_attention.decode import decode
from pallas_kernels.paged_attention.extend import extend

__all__ = [
    "PLAIN",
    "AnyKVPages",
    "AttentionOptions",
    "KVPages",
    "QuantizedKVPages",
    "append_and_decode",
    "decode",
    "extend",
]
