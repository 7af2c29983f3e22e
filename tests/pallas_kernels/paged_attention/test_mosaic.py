"""Mosaic's kernel for prefill. It cannot be interpreted, so that a machine without a GPU shows which calls it
serves, and, with JAX's CUDA plugin, that it compiles and goes into a step's CUDA graph."""

import functools
import re
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import UnsupportedError
from pallas_kernels.core.device import Device, target_device
from pallas_kernels.paged_attention import AttentionOptions, extend
from pallas_kernels.paged_attention.extend import mosaic
from pallas_kernels.paged_attention.extend.mosaic import serves, widened
from pallas_kernels.paged_attention.extend.query_blocks import longest_rows_first, newest_positions_first
from pallas_kernels.paged_attention.shapes import SHAPES, AttentionShape
from tests.pallas_kernels import h200
from tests.pallas_kernels.h200 import compiler_process, what_is_missing
from tests.pallas_kernels.h200_cases import pages
from tests.pallas_kernels.paged_cases import PagedCase, in_8_bits, make_case, relative_error

PLAIN = AttentionOptions()
BOUNDS = {jnp.bfloat16: 5e-3, jnp.float16: 1e-3}
LLAMA = SHAPES["llama-3.1-8b"]
QUANTIZED = [None, jnp.int8, jnp.float8_e4m3fn]
LENGTHS = [0, 1, 15, 16, 17, 32, 90, 700, 1000]
QUERY_LENGTHS = [0, 1, 3, 16, 5, 31, 40, 33, 600]
HAS_JAX = jax.__version_info__ >= serves.OLDEST_JAX
on_hopper = pytest.mark.skipif(
    not (HAS_JAX and target_device().is_hopper),
    reason="needs an H100 or H200, and a jax that has what the kernel needs",
)


def stored_as(case: PagedCase, quantized) -> PagedCase:
    return case if quantized is None else in_8_bits(case, quantized)


def error_of(case: PagedCase, dtype=jnp.bfloat16, implementation="mosaic", **options) -> float:
    """Relative to the reference; infinite where padding tokens give anything but zeros."""
    attend = jax.jit(functools.partial(extend, implementation=implementation))
    got = np.asarray(attend(*case.arguments(dtype), **options), np.float32)
    wanted = np.asarray(
        jax.jit(functools.partial(extend, implementation="reference"))(*case.arguments(dtype))
    )
    return np.inf if got[case.query_starts[-1] :].any() else relative_error(got, wanted)


@pytest.mark.gpu
@on_hopper
class TestOnHopper:
    @pytest.mark.parametrize("dtype", BOUNDS)
    @pytest.mark.parametrize(
        "name", ["llama-3.1-8b", "tinyllama-1.1b", "qwen2.5-7b", "qwen3-30b-a3b", "llama-2-7b"]
    )
    def test_ragged_rows(self, rng, name, dtype):
        """Groups of 1, 4, 7 and 8 heads, of 64 and of 128; blocks partly filled, and rows that end within a
        page."""
        case = make_case(rng, SHAPES[name], LENGTHS, 16, QUERY_LENGTHS, num_padding_tokens=100)
        assert error_of(case, dtype) < BOUNDS[dtype]

    @pytest.mark.parametrize("quantized", QUANTIZED)
    @pytest.mark.parametrize("page_size", [8, 16, 32, 64, 128, 256])
    def test_page_sizes(self, rng, page_size, quantized):
        case = make_case(rng, LLAMA, LENGTHS, page_size, QUERY_LENGTHS, num_padding_tokens=3)
        assert error_of(stored_as(case, quantized)) < BOUNDS[jnp.bfloat16]

    @pytest.mark.parametrize("quantized", QUANTIZED[1:])
    @pytest.mark.parametrize("dtype", BOUNDS)
    @pytest.mark.parametrize("name", ["tinyllama-1.1b", "qwen2.5-7b"])
    def test_heads_of_a_cache_in_8_bits(self, rng, name, dtype, quantized):
        case = make_case(rng, SHAPES[name], LENGTHS, 16, QUERY_LENGTHS, num_padding_tokens=100)
        assert error_of(in_8_bits(case, quantized), dtype) < BOUNDS[dtype]

    @pytest.mark.parametrize("quantized", QUANTIZED[1:])
    @pytest.mark.parametrize("max_positions", [64, 2100])
    def test_rows_that_do_not_fit_are_read_as_they_are_stored(
        self, rng, monkeypatch, quantized, max_positions
    ):
        """Or that just fit: the rows with new tokens have 120 pages."""
        monkeypatch.setattr(widened, "MAX_POSITIONS", max_positions)
        case = in_8_bits(make_case(rng, LLAMA, LENGTHS, 16, QUERY_LENGTHS), quantized)
        assert error_of(case) < BOUNDS[jnp.bfloat16]

    def test_a_full_page_table(self, rng):
        """Nothing is read behind the last entry of the table."""
        case = make_case(rng, LLAMA, [256, 256, 33], 16, [256, 31, 33], spare_pages=0)
        assert error_of(case) < BOUNDS[jnp.bfloat16]

    @pytest.mark.parametrize("quantized", QUANTIZED)
    def test_more_pieces_of_work_than_programs(self, rng, quantized):
        lengths = rng.integers(1500, 3000, 6).tolist()
        case = make_case(rng, LLAMA, lengths, 16, rng.integers(300, 1500, 6).tolist(), num_padding_tokens=33)
        assert error_of(stored_as(case, quantized)) < BOUNDS[jnp.bfloat16]

    @pytest.mark.parametrize(
        "query_lengths", [[1, 1, 1, 700, 0, 512], [1, 1, 0, 0, 0, 0], [900, 5, 400, 0, 0, 0]]
    )
    def test_mixed_batches(self, rng, query_lengths):
        lengths = np.maximum([1, 16, 40, 900, 0, 600], query_lengths).tolist()
        padding = serves.MIN_TOKENS - sum(query_lengths)
        case = make_case(rng, LLAMA, lengths, 16, query_lengths, num_padding_tokens=padding)
        count = jnp.int32(next(i for i, n in enumerate(query_lengths) if n != 1))
        assert error_of(case, num_decode_rows=count) < BOUNDS[jnp.bfloat16]
        assert error_of(case, implementation="auto", num_decode_rows=count) < BOUNDS[jnp.bfloat16]


def call(shape=LLAMA, page_size=16, dtype=jnp.bfloat16, tokens=serves.MIN_TOKENS, quantized=None) -> tuple:
    """q and cache as `why_not` sees them."""
    q = jax.ShapeDtypeStruct((tokens, shape.num_heads, shape.head_dim), dtype)
    return q, pages(100, page_size, shape, dtype=dtype, cache=quantized)


@pytest.fixture
def as_on_an_h200(monkeypatch):
    monkeypatch.setattr(serves, "target_device", lambda: Device("NVIDIA H200", 132))
    monkeypatch.setattr(serves, "OLDEST_JAX", (0, 0))


@pytest.mark.usefixtures("as_on_an_h200")
class TestWhatItServes:
    @pytest.mark.parametrize("quantized", QUANTIZED)
    def test_the_plain_case_of_a_prefill(self, quantized):
        assert mosaic.why_not(*call(quantized=quantized), sinks=None, options=PLAIN) is None
        assert mosaic.is_best_for(*call(quantized=quantized), sinks=None, options=PLAIN)
        assert not mosaic.is_best_for(*call(tokens=serves.MIN_TOKENS - 1), sinks=None, options=PLAIN)

    @pytest.mark.parametrize("options", [{"sliding_window": 4}, {"soft_cap": 2.0}], ids=str)
    def test_not_windows_and_caps(self, options):
        assert "left out" in mosaic.why_not(*call(), sinks=None, options=AttentionOptions(**options))

    def test_not_sinks(self):
        assert "left out" in mosaic.why_not(*call(), sinks=jnp.zeros(32), options=PLAIN)

    def test_not_float32(self):
        assert "float32, and must be bfloat16" in mosaic.why_not(
            *call(dtype=jnp.float32), sinks=None, options=PLAIN
        )

    def test_not_every_head_dim(self):
        assert "head_dim is 96" in mosaic.why_not(
            *call(AttentionShape(32, 32, 96)), sinks=None, options=PLAIN
        )

    @pytest.mark.parametrize("page_size", [1, 4, 24, 192])
    def test_not_every_page_size(self, page_size):
        assert f"pages have {page_size} positions" in mosaic.why_not(
            *call(page_size=page_size), sinks=None, options=PLAIN
        )

    def test_not_other_devices(self, monkeypatch):
        monkeypatch.setattr(serves, "target_device", lambda: Device("NVIDIA A100-SXM4-80GB", 108))
        assert "'NVIDIA A100-SXM4-80GB'" in mosaic.why_not(*call(), sinks=None, options=PLAIN)

    def test_not_older_versions_of_jax(self, monkeypatch):
        monkeypatch.setattr(serves, "OLDEST_JAX", (999, 0))
        assert "must be 999.0 or newer" in mosaic.why_not(*call(), sinks=None, options=PLAIN)


def test_a_call_that_it_does_not_serve_is_an_error_that_says_what_does(rng):
    case = make_case(rng, AttentionShape(4, 2, 32), [3, 4], 4, [3, 4])
    with pytest.raises(UnsupportedError, match=r"head_dim is 32, and must be one of .*use 'pallas'"):
        extend(*case.arguments(jnp.bfloat16), implementation="mosaic")


@pytest.mark.parametrize("kind", ["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA GH200-480GB"])
def test_hopper_is_known_by_its_name(kind):
    assert Device(kind, 132).is_hopper
    assert not Device(kind.replace("H", "B"), 132).is_hopper


def test_the_work_list_is_that_of_triton_in_another_order(rng):
    """Of random rows, some of them empty, with tokens of decode rows before them and padding behind."""
    static = {"static_argnames": ("num_tokens", "block_tokens")}
    compiled = [jax.jit(f, **static) for f in (newest_positions_first, longest_rows_first)]
    for num_rows in rng.integers(1, 9, 4):
        query_lengths = rng.integers(0, 90, num_rows) * (rng.random(num_rows) < 0.7)
        lengths = jnp.asarray(query_lengths + rng.integers(0, 200, num_rows) * (query_lengths > 0), jnp.int32)
        starts = int(rng.integers(0, 5)) + np.concatenate([[0], np.cumsum(query_lengths)])
        num_tokens = int(starts[-1] + rng.integers(1, 60))
        rows = {"query_starts": jnp.asarray(starts, jnp.int32), "lengths": lengths}
        found = (f(**rows, num_tokens=num_tokens, block_tokens=32) for f in compiled)
        (work, num_blocks), wanted = (jax.tree.map(np.asarray, blocks) for blocks in found)
        work = work[:, : int(num_blocks[0])]
        wanted = np.stack([wanted.row, wanted.token, wanted.num_queries, wanted.position, wanted.length])
        assert sorted(map(tuple, work.T)) == sorted(map(tuple, wanted[:, wanted[2] > 0].T))
        assert (np.diff(work[3]) <= 0).all(), "the newest positions first"


@pytest.mark.skipif(what_is_missing() is not None, reason=what_is_missing() or "")
@pytest.mark.skipif(not HAS_JAX, reason="needs a newer jax")
class TestCompiledForAnH200:
    @pytest.mark.parametrize("quantized", QUANTIZED)
    def test_layers_of_a_mixed_batch_are_one_cuda_graph(self, quantized):
        """With one list of work for all layers, and no copy of the cache."""
        num_layers = 4
        batch = mixed_batch(rows=16, quantized=quantized)
        with compiler_process() as compile_for_h200:
            program = compile_for_h200(functools.partial(_layers, num_layers), *batch)
        assert program.thunks == ["kCommandBuffer"]
        captured = Counter(program.captured)
        assert captured.pop("kCustomCall") == num_layers
        assert captured.total() < 16 + 2 * num_layers, captured

    def test_a_cache_in_8_bits_of_which_rows_may_have_too_much(self):
        """Which is known when the step runs, by its one CUDA graph."""
        batch = mixed_batch(rows=16, quantized=jnp.int8, max_pages=1024)
        with compiler_process() as compile_for_h200:
            program = compile_for_h200(functools.partial(_layers, 1), *batch)
        assert program.thunks == ["kCommandBuffer"]
        captured = Counter(program.captured)
        assert (captured["kConditional"], captured["kCustomCall"]) == (1, 1), captured

    def test_few_rows_and_many_share_a_module(self):
        """Which is compiled once a process, and has to be the same text for a cache that is kept."""
        with compiler_process(module_hash) as module_hash_there:
            hashes = [module_hash_there(rows) for rows in (16, 256, 16)]
        assert hashes[0]
        assert len(set(hashes)) == 1


def mixed_batch(rows: int, quantized=None, max_pages: int = 6) -> tuple:
    q, kv_pages = call(quantized=quantized)
    shapes = (rows, max_pages), (rows + 1,), (rows,), ()
    return q, kv_pages, *(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)


def module_hash(rows: int) -> str:
    mesh = h200._mesh()
    arguments = jax.tree.map(functools.partial(h200._on_device, mesh), mixed_batch(rows))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(functools.partial(_layers, 1)).trace(*arguments).lower(lowering_platforms=("cuda",))
    return re.search(r'kernel_hash = "([^"]*)"', lowered.as_text())[1]


def _layers(num_layers, q, kv_pages, page_table, query_starts, lengths, num_decode_rows):
    arguments = kv_pages, page_table, query_starts, lengths
    for _ in range(num_layers):
        q = extend(q, *arguments, num_decode_rows=num_decode_rows, implementation="pallas", interpret=False)
    return q


@pytest.mark.skipif(not HAS_JAX, reason="needs a newer jax")
def test_a_process_that_traces_nothing_finds_the_runtime():
    """In a process of its own: here, Mosaic may have been imported."""
    program = (
        "import os; from pallas_kernels.paged_attention.extend import mosaic; mosaic.load_runtime(); "
        "print(os.environ.get('MOSAIC_GPU_RUNTIME_LIB_PATH', ''))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip().endswith("libmosaic_gpu_runtime.so")
