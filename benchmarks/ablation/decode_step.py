"""A decode step, dispatched back to back, as the engine compiles it or with one choice undone. See the
package."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.ablation.filled_state import filled_state
from benchmarks.kernels.cases.theirs import jax_kernel
from jinfer.batching.batch import layout_of, pack
from jinfer.batching.buckets import StepShape
from jinfer.bench.workloads import Workload
from jinfer.compilation.options import GPU_COMPILER_OPTIONS
from jinfer.config import EngineLimits
from jinfer.execution.device_memory import delete_arrays
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.kv_cache import KVHeads, KVLayout
from jinfer.execution.step import run_step
from jinfer.models import decoder
from jinfer.models.model import Model
from jinfer.weights.params import Params
from pallas_kernels import paged_attention
from pallas_kernels.core.selection import should_interpret
from pallas_kernels.rope_cache_write import rope_cache_write

WARM_UP_STEPS, TIMED_STEPS = 8, 56  # wholes of steps_per_call
PROGRAMS = 1056  # of jax's kernel, eight for each multiprocessor; rows are split to have as many
PAGES_PER_BLOCK, NUM_WARPS = 8, 4


@dataclass(frozen=True)
class StepChoices:
    """The options of a step. The defaults are those of an engine; `compiler_options` are for a GPU."""

    page_size: int = 16
    compiler_options: Mapping[str, str | bool] | None = None
    has_jax_attention: bool = False
    steps_per_call: int = 1


class DecodeStep:
    """A step of all rows of the workload, half of whose outputs are there: traced when made, then compiled,
    then timed.

    Raises RuntimeError for jax's attention where this jax has none, or the model does not call ours.
    """

    def __init__(self, model: Model, params: Params, workload: Workload, choices: StepChoices) -> None:
        rows, self._context = (
            len(workload.requests),
            workload.requests[0].prompt + workload.requests[0].output // 2,
        )
        positions = self._context + WARM_UP_STEPS + TIMED_STEPS + 1
        pages_each, num_splits = _pages_and_splits(model, rows, positions, choices.page_size)
        self._limits = EngineLimits(
            choices.page_size, rows * pages_each + 1, rows, rows, max_model_len=pages_each * choices.page_size
        )
        self._choices, self._dtype = choices, jax.tree.leaves(params)[0].dtype
        self._model = model
        layout = layout_of(StepShape(rows), self._limits)
        fields = {"row_ids": (range(rows), 0), "new_page_ids": ([], 0)}
        self._words = pack(layout, fields)

        def step(params, state, foreign, packed):
            is_jax = choices.has_jax_attention
            attention = (
                _jax_attention(foreign, num_splits, choices.page_size) if is_jax else contextlib.nullcontext()
            )
            with attention:
                for _ in range(choices.steps_per_call):
                    state, result = run_step(model, StepShape(rows), self._limits, params, state, packed)
                return state, result

        state = abstract_device_state(model.config, self._limits, self._dtype)
        foreign = jax.eval_shape(self._foreign_cache)
        self._lowered = jax.jit(step, donate_argnums=1).lower(params, state, foreign, self._words)

    def compile(self) -> jax.stages.Compiled:
        """Compiles the step. Several steps may compile in threads at the same time."""
        return self._lowered.compile(_compiler_options(self._choices))

    def time_ms(
        self, compiled: jax.stages.Compiled, params: Params, *, has_zero_cache: bool = False
    ) -> float:
        """Returns the milliseconds of a step that is dispatched again and again and never read."""
        sizes = self._model, self._limits, self._context, self._dtype
        state, foreign = filled_state(*sizes, has_zero_cache=has_zero_cache), self._foreign_cache()
        try:
            for count in (WARM_UP_STEPS, TIMED_STEPS):
                jax.block_until_ready(state)
                began = time.perf_counter()
                for _ in range(count // self._choices.steps_per_call):
                    state, result = compiled(params, state, foreign, self._words)
                jax.block_until_ready(result)
            return (time.perf_counter() - began) / TIMED_STEPS * 1e3
        finally:
            delete_arrays((state, foreign))

    def _foreign_cache(self) -> tuple[tuple[jax.Array, jax.Array], ...]:
        """Keys and values of each layer in the layout of jax's kernel, (kv_heads, pages, page_size,
        head_dim), if the step uses it."""
        layout = KVLayout.of(self._model.config, self._limits.page_size, self._dtype)
        layers = layout.layers if self._choices.has_jax_attention else ()

        def pages(heads: KVHeads, seed: int) -> jax.Array:
            shape = heads.num_kv_heads, self._limits.num_pages, self._limits.page_size, heads.head_dim
            return jax.random.normal(jax.random.key(seed), shape, self._dtype)

        return tuple(
            (pages(heads, 2 * layer), pages(heads, 2 * layer + 1)) for layer, heads in enumerate(layers)
        )


def _compiler_options(choices: StepChoices) -> Mapping[str, str | bool] | None:
    if jax.default_backend() != "gpu":
        return None
    return GPU_COMPILER_OPTIONS if choices.compiler_options is None else choices.compiler_options


def _pages_and_splits(model: Model, rows: int, positions: int, page_size: int) -> tuple[int, int]:
    """The entries of a row of the page table, and the number of splits in jax's kernel: enough to fill the
    machine, each of whole blocks of pages."""
    pages = -(-positions // page_size)
    splits = max(
        1, min(PROGRAMS // (rows * model.config.layers[0].attention.num_kv_heads), pages // PAGES_PER_BLOCK)
    )
    block = PAGES_PER_BLOCK * splits
    return -(-pages // block) * block, splits


@contextlib.contextmanager
def _jax_attention(foreign: Any, num_splits: int, page_size: int) -> Iterator[None]:
    """While a step is traced, each call of `append_and_decode` reads the next layer of the foreign cache.
    What it does before attention is then done by `rope_cache_write`, into ours."""
    kernel = jax_kernel("paged_attention")
    if kernel is None:
        raise RuntimeError("this version of jax has no paged attention of its own")
    ours, layers = paged_attention.append_and_decode, iter(foreign)
    num_calls = 0

    def append_and_decode(heads, kv_pages, page_table, lengths, cos, sin, *, options, sinks, **others):
        nonlocal num_calls
        num_calls += 1
        assert sinks is None, "jax's kernel has no sinks"
        position = jnp.maximum(lengths - 1, 0)
        page_ids = jnp.take_along_axis(page_table, position[:, None] // page_size, axis=1)[:, 0]
        q, kv_pages = rope_cache_write(heads, kv_pages, cos, sin, page_ids, position % page_size, **others)
        k_pages, v_pages = next(layers)
        attended = kernel(
            q,
            k_pages,
            v_pages,
            page_table,
            lengths,
            k_splits=num_splits,
            pages_per_compute_block=PAGES_PER_BLOCK,
            num_warps=NUM_WARPS,
            interpret=should_interpret(None),
        )
        return attended.astype(q.dtype), kv_pages

    paged_attention.append_and_decode = append_and_decode
    try:
        with _traced_anew():
            yield
    finally:
        paged_attention.append_and_decode = ours
    if num_calls != len(foreign):
        raise RuntimeError(
            f"{num_calls} calls of append_and_decode in {len(foreign)} layers: not all was replaced"
        )


@contextlib.contextmanager
def _traced_anew() -> Iterator[None]:
    """Layers share one trace where the decoder jits them, and would share a foreign one: each has its own jit
    here."""
    layer = vars(decoder).get("_layer")
    if layer is None:
        yield
        return

    def anew(*arguments):
        return jax.jit(functools.partial(layer.__wrapped__), static_argnums=1)(*arguments)

    decoder._layer = anew
    try:
        yield
    finally:
        decoder._layer = layer
