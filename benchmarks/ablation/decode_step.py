"""A decode step dispatched back to back, with our paged attention or with jax's own. See the package."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.decode_step import filled_state
from benchmarks.kernels.cases.theirs import jax_kernel
from jinfer.batching.batch import layout_of
from jinfer.batching.buckets import StepShape
from jinfer.batching.packing import pack
from jinfer.bench.workloads import Workload
from jinfer.config import Limits
from jinfer.execution import compiled_steps
from jinfer.execution.device_state import DeviceState
from jinfer.execution.step import run_step
from jinfer.models import decoder
from jinfer.models.model import Model, Params
from pallas_kernels import paged_attention
from pallas_kernels.rope_cache_write import rope_cache_write
from pallas_kernels.selection import should_interpret

PAGE_SIZE = 16
WARM_UP_STEPS, TIMED_STEPS = 5, 50
PROGRAMS = 1056  # of jax's kernel, eight for each multiprocessor; rows are split to have as many
PAGES_PER_BLOCK, NUM_WARPS = 8, 4


def ours_ms(model: Model, params: Params, workload: Workload) -> float:
    """Milliseconds of a step of all rows of the workload, half of whose outputs are there."""
    return _step_ms(model, params, workload, is_jax=False)


def jax_ms(model: Model, params: Params, workload: Workload) -> float:
    """The same with jax's kernel. Raises RuntimeError where this jax has none, or the model does not call ours."""
    return _step_ms(model, params, workload, is_jax=True)


def _step_ms(model: Model, params: Params, workload: Workload, *, is_jax: bool) -> float:
    rows, context = len(workload.requests), workload.requests[0].prompt + workload.requests[0].output // 2
    pages_each, num_splits = _pages_and_splits(model, rows, context + WARM_UP_STEPS + TIMED_STEPS + 1)
    limits = Limits(PAGE_SIZE, rows * pages_each + 1, rows, rows, pages_each * PAGE_SIZE)
    shape, dtype = StepShape(rows), jax.tree.leaves(params)[0].dtype
    state = filled_state(model, limits, context, dtype)
    foreign = _foreign_cache(model, limits, dtype) if is_jax else ()
    words = pack(
        layout_of(shape, limits),
        {"row_ids": np.arange(rows, dtype=np.int32), "new_page_ids": np.zeros(rows, np.int32)},
    )

    def step(params, state, foreign, words):
        with _jax_attention(foreign, num_splits) if is_jax else contextlib.nullcontext():
            return run_step(model, shape, limits, params, state, words)

    options = compiled_steps.GPU_COMPILER_OPTIONS if jax.default_backend() == "gpu" else None
    lowered = jax.jit(step, donate_argnums=1).lower(params, state, foreign, words)
    return _time_ms(functools.partial(_call, lowered.compile(options), params, foreign, words), state)


def _pages_and_splits(model: Model, rows: int, positions: int) -> tuple[int, int]:
    """Entries of a row of the page table, and splits of it in jax's kernel: enough to fill the machine, each of whole
    blocks of pages."""
    pages = -(-positions // PAGE_SIZE)
    splits = max(1, min(PROGRAMS // (rows * model.config.num_kv_heads), pages // PAGES_PER_BLOCK))
    block = PAGES_PER_BLOCK * splits
    return -(-pages // block) * block, splits


def _call(compiled: Any, params: Params, foreign: Any, words: np.ndarray, state: DeviceState):
    return compiled(params, state, foreign, words)


def _time_ms(step: Callable[[DeviceState], tuple[DeviceState, Any]], state: DeviceState) -> float:
    for count in (WARM_UP_STEPS, TIMED_STEPS):
        jax.block_until_ready(state)
        began = time.perf_counter()
        for _ in range(count):
            state, result = step(state)
        jax.block_until_ready(result)
    return (time.perf_counter() - began) / TIMED_STEPS * 1e3


def _foreign_cache(model: Model, limits: Limits, dtype: jnp.dtype) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """Keys and values of each layer as jax's kernel wants them: (kv_heads, pages, page_size, head_dim)."""
    config = model.config
    shape = config.num_kv_heads, limits.num_pages, limits.page_size, config.head_dim

    def pages(seed: int) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape, dtype)

    return tuple((pages(2 * layer), pages(2 * layer + 1)) for layer in range(config.num_layers))


@contextlib.contextmanager
def _jax_attention(foreign: Any, num_splits: int) -> Iterator[None]:
    """While a step is traced, each call of `append_and_decode` reads the next layer of the foreign cache. What it does
    before attention is then done by `rope_cache_write`, into ours."""
    kernel = jax_kernel("paged_attention")
    if kernel is None:
        raise RuntimeError("this version of jax has no paged attention of its own")
    ours, layers = paged_attention.append_and_decode, iter(foreign)
    num_calls = 0

    def append_and_decode(heads, kv_pages, page_table, lengths, cos, sin, *, options, **others):
        nonlocal num_calls
        num_calls += 1
        position = jnp.maximum(lengths - 1, 0)
        page_ids = jnp.take_along_axis(page_table, position[:, None] // PAGE_SIZE, axis=1)[:, 0]
        q, kv_pages = rope_cache_write(heads, kv_pages, cos, sin, page_ids, position % PAGE_SIZE, **others)
        k_pages, v_pages = next(layers)
        attended = kernel(
            q, k_pages, v_pages, page_table, lengths, k_splits=num_splits,
            pages_per_compute_block=PAGES_PER_BLOCK, num_warps=NUM_WARPS, interpret=should_interpret(None),
        )  # fmt: skip
        return attended.astype(q.dtype), kv_pages

    paged_attention.append_and_decode = append_and_decode
    try:
        with _traced_anew():
            yield
    finally:
        paged_attention.append_and_decode = ours
    if num_calls != len(foreign):
        raise RuntimeError(f"{num_calls} calls of append_and_decode in {len(foreign)} layers: not all was replaced")


@contextlib.contextmanager
def _traced_anew() -> Iterator[None]:
    """Layers share one trace where the decoder jits them, and would share a foreign one: each has its own jit here."""
    layer = vars(decoder).get("_layer")
    if layer is None:
        yield
        return

    def anew(*arguments):
        return jax.jit(functools.partial(layer.__wrapped__), static_argnums=(0, 1))(*arguments)

    decoder._layer = anew
    try:
        yield
    finally:
        decoder._layer = layer
