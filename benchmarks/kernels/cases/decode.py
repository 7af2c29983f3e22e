"""paged_attention.decode: bound by reading keys and values."""

import functools
import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.kernels.case import Baseline, Case, Limit, Target, Tuning, Work
from benchmarks.kernels.cases.paged import ITEMSIZE, QUANTIZED, PagedRows, beside_16_bits, gathered_attention
from benchmarks.kernels.cases.theirs import jax_kernel
from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from pallas_kernels.core.selection import Implementation, should_interpret
from pallas_kernels.paged_attention import decode
from pallas_kernels.paged_attention.decode import triton
from pallas_kernels.paged_attention.decode.tuning import (
    DecodeBlocks,
    DecodeCall,
    decode_candidates,
    decode_key,
)
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape

BANDWIDTH = Target(85, "%")
PROGRAMS = 512  # four a multiprocessor, for jax's kernel
JAX_DEFAULTS = (16, 8, 8)  # k_splits, pages_per_compute_block and num_warps of jax's kernel by default
BESIDE_8_BITS = ((64, 2048), (256, 1024), (8, 16384), (1, 1024))  # rows and positions
COMPARED_WITH_JAX = ("decode-64x2048", "decode-8x16384", "decode-256x1024")


def cases(*, smoke: bool) -> Iterator[Case]:
    """Yields the shapes of the targets, then other models, page sizes, and the sizes of an engine's steps."""
    llama = SHAPES["llama-3.1-8b"]
    if smoke:
        small = PagedRows(3, 64, AttentionShape(4, 2, 32))
        yield _case("decode-64x2048", small, BANDWIDTH, beside_jax=True)
        yield _case("decode-64x2048-int8", replace(small, quantized="int8"))
        return
    for rows, positions in ((64, 2048), (8, 16384), (256, 1024), (1, 131072)):
        name = f"decode-{rows}x{positions}"
        yield _case(name, PagedRows(rows, positions, llama), BANDWIDTH, beside_jax=name in COMPARED_WITH_JAX)
    for (rows, positions), (kind, dtype) in itertools.product(BESIDE_8_BITS, QUANTIZED.items()):
        yield _case(
            f"decode-{rows}x{positions}-{kind}", PagedRows(rows, positions, llama, quantized=dtype), BANDWIDTH
        )
    for positions, max_us in ((1024, 12), (4096, 15)):
        paged = PagedRows(1, positions, AttentionShape(32, 4, 128))
        yield _case(f"decode-b1-{positions}", paged, Target(max_us, "us"), is_latency=True)
    for page_size in (1, 64, 256):
        yield _case(f"decode-64x2048-page-{page_size}", PagedRows(64, 2048, llama, page_size=page_size))
    for model, rows, positions in (
        ("qwen3-0.6b", 64, 2048),
        ("qwen3-32b", 64, 2048),
        ("llama-2-7b", 16, 2048),
        ("falcon-7b", 64, 16384),
        ("phi-3.5-mini", 16, 2048),
        ("tinyllama-1.1b", 64, 4096),
        ("gemma-2-2b", 64, 2048),
    ):
        yield _case(f"decode-{model}-{rows}x{positions}", PagedRows(rows, positions, SHAPES[model]))
    for model, window in (("local", 128), ("full", None)):
        shape = AttentionShape(64, 8, 64, sliding_window=window)
        yield _case(f"decode-gpt-oss-20b-{model}-64x8192", PagedRows(64, 8192, shape, has_sinks=True))
    for rows in (1, 4, 16):
        yield _case(f"decode-{rows}x1024", PagedRows(rows, 1024, llama), is_latency=rows == 1)
    if importlib.util.find_spec("jax_triton") is not None:
        for rows, positions in ((64, 2048), (8, 16384), (1, 1024)):
            yield _jax_triton_case(PagedRows(rows, positions, llama), is_latency=rows == 1)


def _case(
    name: str,
    paged: PagedRows,
    target: Target | None = None,
    *,
    is_latency: bool = False,
    beside_jax: bool = False,
) -> Case:
    shape = paged.shape
    call = DecodeCall(
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
        op="paged_attention.decode",
        shape=str(paged),
        work=Work(read_bytes=paged.kv_bytes, flops=paged.flops),
        limit=Limit.READ,
        make=functools.partial(_make, paged),
        build=functools.partial(_pallas, paged),
        reference=functools.partial(_call, paged, "reference"),
        xla=functools.partial(_gathered, paged) if paged.quantized is None else None,
        jax=_jax_paged_attention(paged) if beside_jax else None,
        is_latency=is_latency,
        target=target,
        tuning=Tuning("paged_attention", "decode", decode_key(call), decode_candidates(call)),
        ratio=beside_16_bits(name, paged),
    )


def _jax_triton_case(paged: PagedRows, *, is_latency: bool) -> Case:
    """The case of the implementation "jax-triton", with the blocks of the Pallas kernel."""
    case = _case(f"decode-{paged.rows}x{paged.positions}-jax-triton", paged, is_latency=is_latency)
    return replace(
        case, build=lambda blocks: functools.partial(_call, paged, "jax-triton"), xla=None, tuning=None
    )


def _make(paged: PagedRows, data: Data, num_sets: int) -> Inputs:
    """Makes the inputs. The result of a call is the query of the next one. An average over the values is
    small, so the values are large."""
    window = paged.shape.sliding_window or paged.positions
    scale = 0.5 * math.sqrt(min(paged.positions, window))
    carry = paged.queries_from(data), paged.lengths_from(data), paged.sinks_from(data)
    return Inputs(carry, [paged.cache_from(data, scale) for _ in range(num_sets)])


def _call(paged: PagedRows, implementation: Implementation, carry, cache):
    (q, lengths, sinks), (kv_pages, table) = carry, cache
    out = decode(
        q, kv_pages, table, lengths, sinks=sinks, options=paged.options, implementation=implementation
    )
    return (out, lengths, sinks), None


def _pallas(paged: PagedRows, blocks: DecodeBlocks | None) -> Step:
    if blocks is None:
        return functools.partial(_call, paged, "pallas")

    def step(carry, cache):
        (q, lengths, sinks), (kv_pages, table) = carry, cache
        interpret = should_interpret(None)
        out = triton.decode(
            q,
            kv_pages,
            table,
            lengths,
            sinks=sinks,
            options=paged.options,
            blocks=blocks,
            interpret=interpret,
        )
        return (out, lengths, sinks), None

    return step


def _gathered(paged: PagedRows, carry, cache):
    (q, lengths, sinks), (kv_pages, table) = carry, cache
    return (gathered_attention(q, kv_pages, table, lengths, sinks, paged), lengths, sinks), None


def _jax_paged_attention(paged: PagedRows) -> Baseline | None:
    """jax's own kernel in its own layout, where a page is [KV head, position, head_dim]: with the splits that
    fill the machine or twice as many, a few block sizes, and its defaults."""
    paged_attention = jax_kernel("paged_attention")
    if paged_attention is None:
        return None
    few = max(1, min(paged.pages_each, PROGRAMS // (paged.rows * paged.shape.num_kv_heads)))
    settings = {*itertools.product((few, 2 * few), (4, 8), (4, 8)), JAX_DEFAULTS}
    settings = {setting for setting in settings if paged.pages_each % setting[0] == 0}

    def step(k_splits, pages_per_block, num_warps, carry, cache):
        (q, lengths), (k_pages, v_pages, table) = carry, cache
        out = paged_attention(
            *(q, k_pages, v_pages, table, lengths),
            k_splits=k_splits,
            pages_per_compute_block=pages_per_block,
            num_warps=num_warps,
            interpret=should_interpret(None),
        )
        return (out, lengths), None

    named = {
        f"k_splits={n} pages={p} warps={w}": functools.partial(step, n, p, w) for n, p, w in sorted(settings)
    }
    return Baseline(functools.partial(_make_in_jax_layout, paged), named)


def _make_in_jax_layout(paged: PagedRows, data: Data, num_sets: int) -> Inputs:
    num_pages = paged.rows * paged.pages_each + 1
    pages = (paged.shape.num_kv_heads, num_pages, paged.page_size, paged.shape.head_dim)
    scale = 0.5 * math.sqrt(paged.positions)
    sets = [
        (data.normal(pages), data.normal(pages, scale=scale), data.page_table(paged.rows, paged.pages_each))
        for _ in range(num_sets)
    ]
    return Inputs((paged.queries_from(data), paged.lengths_from(data)), sets)
