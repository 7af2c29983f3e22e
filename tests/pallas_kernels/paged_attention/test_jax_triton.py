"""Decode in Triton proper: interpreted on a CPU, compiled for an H200 without one, and compiled and run on a
GPU."""

import functools
import logging
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core import jax_triton_call
from pallas_kernels.paged_attention import AttentionOptions, decode
from pallas_kernels.paged_attention.decode import jax_triton
from pallas_kernels.paged_attention.decode.tuning import DecodeBlocks
from pallas_kernels.paged_attention.reference import decode as decode_reference
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape
from tests.pallas_kernels import h200
from tests.pallas_kernels.paged_cases import PagedCase, make_case, oracle, relative_error
from tests.pallas_kernels.triton_processes import (
    compile_chain_for_h200,
    decode_chain,
    decode_interpreted,
    process,
    thunk_sequence,
    what_is_missing,
)

BOUNDS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}  # relative error in the Euclidean norm
LENGTHS = [0, 1, 16, 17, 90]
SMALL_SHAPES = [
    AttentionShape(8, 4, 8),
    AttentionShape(4, 4, 80),
    AttentionShape(6, 2, 96, sliding_window=5),
    AttentionShape(4, 1, 64, soft_cap=2.0),
    AttentionShape(6, 3, 32, sliding_window=20, soft_cap=2.0),
    AttentionShape(8, 2, 32, sliding_window=40, sinks=True),
]
# One split, a tile within a page, tiles over several pages; KV heads one by one, packed, and more than are.
BLOCKS = {
    "one-split": DecodeBlocks(kv_heads=1, tile=16, num_splits=1, num_warps=4, num_stages=3),
    "splits": DecodeBlocks(kv_heads=2, tile=8, num_splits=3, num_warps=4, num_stages=3),
    "long-tiles": DecodeBlocks(kv_heads=4, tile=32, num_splits=2, num_warps=4, num_stages=3),
}
needs_triton = pytest.mark.skipif(
    what_is_missing("triton") is not None, reason=what_is_missing("triton") or ""
)
needs_jax_triton = pytest.mark.skipif(
    what_is_missing("triton", "jax_triton") is not None, reason=what_is_missing("triton", "jax_triton") or ""
)
can_compile = pytest.mark.skipif(h200.what_is_missing() is not None, reason=h200.what_is_missing() or "")


@pytest.fixture(scope="module")
def interpret():
    with process(decode_interpreted, TRITON_INTERPRET="1") as function:
        yield function


@needs_triton
@pytest.mark.parametrize(
    ("page_size", "blocks"), [(16, "one-split"), (48, "splits"), (1, "long-tiles"), (16, None)]
)
@pytest.mark.parametrize("shape", SMALL_SHAPES, ids=str)
def test_interpreted_kernels_are_the_definition(rng, interpret, shape, page_size, blocks):
    case = make_case(rng, shape, LENGTHS, page_size)
    assert relative_error(interpret(case, jnp.float32, blocks=BLOCKS.get(blocks)), oracle(case)) < 1e-6


@needs_jax_triton
@can_compile
def test_a_chain_is_compiled_for_an_h200_into_one_graph():
    with process(compile_chain_for_h200) as compile_chain:
        assert_captured(compile_chain("auto"), graphs=1)
        assert_captured(compile_chain("legacy"), graphs=0)


def assert_captured(thunks: str, graphs: int) -> None:
    """All calls of the chain are in one graph, or all are outside of any."""
    assert thunks.count("kCommandBuffer") == graphs, thunks
    inside = re.findall(r"^ +\d+: kCustomCall", thunks, re.MULTILINE)
    outside = re.findall(r"^\d+: kCustomCall", thunks, re.MULTILINE)
    assert len(inside) >= 6 * graphs, thunks
    assert bool(outside) == (graphs == 0), thunks


def test_a_missing_package_is_an_error_that_says_what_to_install(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    q, kv_pages, page_table, lengths = make_case(rng, AttentionShape(4, 2, 32), [3, 4], 4).arguments(
        jnp.float32
    )
    with pytest.raises(UnsupportedError, match=r'needs jax-triton, Triton .* pip install "jinfer\[cuda\]"'):
        jax_triton.decode(q, kv_pages, page_table, lengths, sinks=None, options=AttentionOptions())


@needs_jax_triton
@pytest.mark.skipif(jax.default_backend() == "gpu", reason="needs a machine without a GPU")
def test_a_cpu_is_an_error_that_says_what_can(rng):
    q, kv_pages, page_table, lengths = make_case(rng, AttentionShape(4, 2, 32), [3, 4], 4).arguments(
        jnp.float32
    )
    with pytest.raises(UnsupportedError, match="runs on NVIDIA GPUs, not on 'cpu'"):
        jax_triton.decode(q, kv_pages, page_table, lengths, sinks=None, options=AttentionOptions())


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="needs a machine without a GPU")
def test_it_is_asked_for_by_name(rng):
    arguments = make_case(rng, AttentionShape(4, 2, 32), [3, 4], 4).arguments(jnp.float32)
    with pytest.raises(UnsupportedError, match="jax-triton"):
        decode(*arguments, implementation="jax-triton")


def test_without_the_typed_call_the_old_one_serves_and_it_is_said(monkeypatch, caplog):
    monkeypatch.setattr(jax_triton_call, "has_ffi_target", lambda: False)
    jax_triton_call._resolved.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert jax_triton_call._resolved("auto") == "legacy"
    assert "stay outside of CUDA graphs" in caplog.text
    assert jax_triton_call._resolved("ffi") == "ffi"
    jax_triton_call._resolved.cache_clear()


def test_an_unknown_call_is_an_error():
    with pytest.raises(ValueError, match="call='graph' is unknown; choose one of 'auto', 'ffi', 'legacy'"):
        jax_triton_call._resolved("graph")


def run(case: PagedCase, dtype, **named) -> np.ndarray:
    compiled = jax.jit(functools.partial(jax_triton.decode, **case.keywords(), **named))
    return np.asarray(compiled(*case.arguments(dtype)), np.float32)


def reference(case: PagedCase, dtype) -> np.ndarray:
    return np.asarray(decode_reference(*case.arguments(dtype), **case.keywords()), np.float32)


@pytest.mark.gpu
@needs_jax_triton
@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", SHAPES)
def test_agrees_with_the_reference_on_a_gpu(rng, name, dtype):
    for lengths in ([*LENGTHS, 300], [0, 255, 256, 2048, *rng.integers(1, 3000, 3).tolist()]):
        case = make_case(rng, SHAPES[name], lengths, page_size=16)
        assert relative_error(run(case, dtype), reference(case, dtype)) < BOUNDS[dtype]


@pytest.mark.gpu
@needs_jax_triton
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("page_size", [1, 2, 8, 48, 64, 256])
def test_any_page_size_and_blocks_on_a_gpu(rng, page_size, blocks):
    case = make_case(rng, AttentionShape(6, 3, 32, sliding_window=40), LENGTHS, page_size)
    assert relative_error(run(case, jnp.float32, blocks=BLOCKS[blocks]), oracle(case)) < BOUNDS[jnp.float32]


@pytest.mark.gpu
@needs_jax_triton
@pytest.mark.parametrize("call", ["ffi", "legacy"])
def test_both_calls_on_a_gpu(rng, call):
    shape = AttentionShape(8, 2, 64, sliding_window=128, sinks=True)
    case = make_case(rng, shape, [0, 1, 17, 300, 900], page_size=16)
    assert relative_error(run(case, jnp.float32, call=call), oracle(case)) < BOUNDS[jnp.float32]


@pytest.mark.gpu
@needs_jax_triton
def test_it_is_asked_for_by_name_on_a_gpu(rng):
    case = make_case(rng, AttentionShape(8, 2, 64), LENGTHS, page_size=16)
    got = decode(*case.arguments(jnp.float32), **case.keywords(), implementation="jax-triton")
    assert relative_error(got, oracle(case)) < BOUNDS[jnp.float32]


@pytest.mark.gpu
@needs_jax_triton
@pytest.mark.parametrize(("call", "graphs"), [("ffi", 1), ("legacy", 0)])
def test_a_chain_runs_as_one_graph_on_a_gpu(rng, call, graphs):
    """And gives the same when it is run again, with its inputs elsewhere in memory."""
    case = make_case(rng, AttentionShape(8, 2, 64), [1, 17, 300, 900], page_size=16)
    q, *cache = case.arguments(jnp.bfloat16)
    chain = jax.jit(decode_chain, static_argnames=("call", "num_decodes"))
    assert_captured(thunk_sequence(chain.lower(q, *cache, call=call)), graphs)
    wanted = q
    for _ in range(6):
        wanted = decode_reference(wanted * 0.5, *cache, sinks=None, options=case.options)
    for _ in range(3):
        q, cache = jax.tree.map(jnp.copy, (q, cache))
        assert relative_error(chain(q, *cache, call=call), wanted) < 2 * BOUNDS[jnp.bfloat16]
