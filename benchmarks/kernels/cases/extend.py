"""paged_attention.extend: bound by matrix products, over the causal half alone."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.kernels.case import Case, Limit, Target, Tuning, Work
from benchmarks.kernels.cases.paged import ITEMSIZE, QUANTIZED, PagedRows, beside_16_bits, gathered_attention
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.paged_attention import extend
from pallas_kernels.paged_attention.extend import triton
from pallas_kernels.paged_attention.extend.tuning import (
    ExtendBlocks,
    ExtendCall,
    extend_candidates,
    extend_key,
)
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields prefill without and with a cached prefix, and the few tokens of speculative verification."""
    llama = SHAPES["llama-3.1-8b"]
    if smoke:
        small = PagedRows(2, 24, AttentionShape(4, 2, 32), queries=17)
        yield _case("extend-1x8192", small, Target(400, "TFLOP/s"))
        yield _case("extend-1x8192-fp8", replace(small, quantized="float8_e4m3fn"))
        return
    for rows, positions in ((1, 8192), (16, 2048)):
        paged = PagedRows(rows, positions, llama, queries=positions)
        yield _case(f"extend-{rows}x{positions}", paged, Target(400, "TFLOP/s"))
    for kind, dtype in QUANTIZED.items():
        paged = PagedRows(1, 8192, llama, queries=8192, quantized=dtype)
        yield _case(f"extend-1x8192-{kind}", paged)
    behind_prefix = PagedRows(32, 4096 + 256, llama, queries=256)
    yield _case("extend-32x256-on-4096", behind_prefix, Target(300, "TFLOP/s"))
    for model in ("qwen3-0.6b", "qwen3-32b", "llama-2-7b", "tinyllama-1.1b", "gemma-2-2b"):
        yield _case(f"extend-{model}-4x2048", PagedRows(4, 2048, SHAPES[model], queries=2048))
    gpt_oss = AttentionShape(64, 8, 64, sliding_window=128)
    yield _case("extend-gpt-oss-20b-local-4x2048", PagedRows(4, 2048, gpt_oss, queries=2048, has_sinks=True))
    for page_size in (1, 64):
        yield _case(
            f"extend-4x2048-page-{page_size}", PagedRows(4, 2048, llama, queries=2048, page_size=page_size)
        )
    for queries in (4, 8):
        yield _case(f"extend-64x{queries}-on-2048", PagedRows(64, 2048 + queries, llama, queries=queries))


def _case(name: str, paged: PagedRows, target: Target | None = None) -> Case:
    shape = paged.shape
    call = ExtendCall(
        tokens=paged.rows * paged.queries,
        rows=paged.rows,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        page_size=paged.page_size,
        max_positions=paged.max_positions,
        itemsize=ITEMSIZE,
        quantized=paged.quantized,
    )
    return Case(
        id=name,
        op="paged_attention.extend",
        shape=str(paged),
        work=Work(paged.kv_bytes + paged.query_bytes, paged.query_bytes, paged.flops),
        limit=Limit.TIGHTER if target is None else Limit.MATMUL,
        make=functools.partial(_make, paged),
        build=functools.partial(_pallas, paged),
        reference=functools.partial(_call, paged, "reference"),
        xla=functools.partial(_gathered, paged) if paged.quantized is None else None,
        target=target,
        tuning=Tuning("paged_attention", "extend", extend_key(call), extend_candidates(call)),
        ratio=beside_16_bits(name, paged),
    )


def _make(paged: PagedRows, data: Data, num_sets: int) -> Inputs:
    """Makes queries for every call: results of the call before would be nearly equal, so that all weights are
    alike and the power is low."""
    starts = data.integers(np.arange(paged.rows + 1) * paged.queries)
    carry = starts, paged.lengths_from(data), paged.sinks_from(data)
    return Inputs(carry, [(paged.queries_from(data), *paged.cache_from(data)) for _ in range(num_sets)])


def _call(paged: PagedRows, implementation: Implementation, carry, arguments):
    (starts, lengths, sinks), (q, kv_pages, table) = carry, arguments
    rows = q, kv_pages, table, starts, lengths
    return carry, extend(*rows, sinks=sinks, options=paged.options, implementation=implementation)


def _pallas(paged: PagedRows, blocks: ExtendBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, paged, "pallas")

    def step(carry, arguments):
        (starts, lengths, sinks), (q, kv_pages, table) = carry, arguments
        rows = q, kv_pages, table, starts, lengths
        return carry, triton.extend(
            *rows, sinks=sinks, options=paged.options, blocks=blocks, interpret=should_interpret(None)
        )

    return step


def _gathered(paged: PagedRows, carry, arguments):
    (_, lengths, sinks), (q, kv_pages, table) = carry, arguments
    return carry, gathered_attention(q, kv_pages, table, lengths, sinks, paged)
