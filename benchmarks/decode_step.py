"""Time of one decode step with random weights, beside the time that reading its bytes takes.

    python -m benchmarks.decode_step CONFIG_DIRECTORY [--rows 1,16,64,256] [--context 1056] [--kernels pallas]

Prints a line of JSON for each number of rows. Steps are dispatched one after another without reading them, as in a
steady decode; the limit is (weights + keys and values of the context) / bandwidth.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.batching.batch import Batch, layout_of
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.packing import pack
from jinfer.config import EngineConfig, Limits
from jinfer.execution.compiled_steps import CompiledSteps
from jinfer.execution.device_state import DeviceState, new_device_state
from jinfer.execution.kv_cache import KVLayout
from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.hub import read_json
from jinfer.weights.params import Params, num_bytes
from pallas_kernels.paged_attention import KVPages

READ_BYTES_PER_S = 4.55e12  # measured on an H200: the sum of 4 GiB
PAGE_SIZE = 16
WARM_UP_STEPS, TIMED_STEPS = 5, 50


def main() -> None:
    """Measures each number of rows in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a directory with a config.json")
    parser.add_argument("--rows", default="1,16,64,256")
    parser.add_argument("--context", type=int, default=1056)
    parser.add_argument("--kernels", choices=["pallas", "xla"], default="pallas")
    options = parser.parse_args()
    raw = read_json(options.config / "config.json")
    model = build_model(read_model_config(raw), jnp.dtype("bfloat16"), options.kernels)
    params = model.dummy_params(seed=0)
    for rows in map(int, options.rows.split(",")):
        result = measure(model, params, rows, options.context)
        print(json.dumps({"config": options.config.name, "kernels": options.kernels, **result}), flush=True)


def measure(model: Model, params: Params, rows: int, context: int) -> dict[str, float | int | str]:
    """Milliseconds of a decode step of `rows` rows that each have `context` tokens in the cache."""
    pages_each = -(-(context + WARM_UP_STEPS + TIMED_STEPS + 1) // PAGE_SIZE)
    limits = Limits(PAGE_SIZE, rows * pages_each + 1, rows, rows, pages_each * PAGE_SIZE)
    shape = StepShape(rows)
    state = filled_state(model, limits, context, jnp.dtype("bfloat16"))
    began = time.perf_counter()
    steps = CompiledSteps(model, limits, Buckets((shape,), ()), params, state, EngineConfig(progress=False))
    compile_s = time.perf_counter() - began
    batch = Batch(shape, pack(layout_of(shape, limits), {
        "row_ids": np.arange(rows, dtype=np.int32), "new_page_ids": np.zeros(rows, np.int32)
    }))  # fmt: skip
    for count in (WARM_UP_STEPS, TIMED_STEPS):
        began = time.perf_counter()
        for _ in range(count):
            state, result = steps(params, state, batch)
        result.token_ids.block_until_ready()
    step_ms = (time.perf_counter() - began) / TIMED_STEPS * 1e3
    read_bytes = sum(_read_once(model, params)) + _cache_bytes(model, rows, context)
    limit_ms = read_bytes / READ_BYTES_PER_S * 1e3
    return {
        "rows": rows, "context": context, "step_ms": round(step_ms, 3), "limit_ms": round(limit_ms, 3),
        "percent_of_limit": round(100 * limit_ms / step_ms, 1), "compile_s": round(compile_s, 1),
        "device": jax.devices()[0].device_kind, "jax": jax.__version__,
    }  # fmt: skip


def filled_state(
    model: Model, limits: Limits, context: int, dtype: jnp.dtype, *, has_zero_cache: bool = False
) -> DeviceState:
    """Every row at `context` tokens, on pages in random order.

    Keys and values are normally distributed, as an engine's are: zeros draw less power, and a GPU at its limit of power
    is faster on them.
    """
    state = new_device_state(model.config, limits, dtype)
    if not has_zero_cache:
        state = state._replace(kv_cache=tuple(_normal_like(layer, i) for i, layer in enumerate(state.kv_cache)))
    pages = np.random.default_rng(0).permutation(limits.num_pages - 1) + 1
    table = np.zeros(state.rows.page_table.shape, np.int32)
    table[:-1] = pages.reshape(limits.max_num_seqs, limits.pages_per_sequence)
    lengths = np.full(state.rows.lengths.shape, context, np.int32)
    return state._replace(rows=state.rows._replace(page_table=jnp.asarray(table), lengths=jnp.asarray(lengths)))


@jax.jit(donate_argnums=0)
def _normal_like(layer: KVPages, seed: int) -> KVPages:
    return KVPages(jax.random.normal(jax.random.key(seed), layer.array.shape, layer.dtype))


def _read_once(model: Model, params: Params) -> Iterator[int]:
    """Bytes of the weights that a decode step reads: all but an embedding that is not the head as well."""
    for name, part in params.items():
        if name != "embedding" or model.config.tie_word_embeddings:
            yield num_bytes(part)


def _cache_bytes(model: Model, rows: int, context: int) -> int:
    layout = KVLayout.of(model.config, page_size=1, dtype=jnp.dtype("bfloat16"))
    return rows * (context + TIMED_STEPS // 2) * layout.page_bytes


if __name__ == "__main__":
    main()
