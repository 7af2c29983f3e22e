"""The limits of this machine, measured: every other figure is compared with them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

NUM_BATCHES = 5


@dataclass(frozen=True)
class MachineLimits:
    """`read`: the sum of 4 GiB. `copy`: 4 GiB read and as much written, by XLA's copy or negation, the faster
    of the two. `matmul`: bfloat16, 8192 x 8192 x 8192, through XLA."""

    read_tb_per_s: float
    copy_tb_per_s: float
    matmul_tflop_per_s: float

    def rounded(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def measure_limits(*, smoke: bool = False) -> MachineLimits:
    """Takes some seconds and, unless it is a smoke test, 12 GiB of memory, which it gives back."""
    elements, size, num_calls = (1 << 22, 256, 4) if smoke else (1 << 30, 8192, 20)
    numbers = _normal((elements,), jnp.float32)
    read_s = _seconds(jnp.sum, numbers, num_calls=num_calls)
    copy_s = min(_seconds(copy, numbers, num_calls=num_calls) for copy in (jnp.copy, jnp.negative))
    numbers.delete()
    matrices = _normal((size, size), jnp.bfloat16), _normal((size, size), jnp.bfloat16)
    matmul_s = _seconds(jnp.dot, *matrices, num_calls=num_calls)
    tb = 4 * elements / 1e12
    return MachineLimits(tb / read_s, 2 * tb / copy_s, 2 * size**3 / matmul_s / 1e12)


def _normal(shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Random numbers made on the device. Zeros would be fast: what is computed decides how much power it
    draws."""
    # Philox: gigabytes in milliseconds.
    key = jax.random.wrap_key_data(jnp.arange(4, dtype=jnp.uint32), impl="rbg")
    return jax.random.normal(key, shape, dtype)


def _seconds(function: Callable[..., Any], *arguments: jax.Array, num_calls: int) -> float:
    """Seconds of one call: the median over batches of calls that are dispatched without waiting. Each takes
    about a millisecond, so that the device hides the dispatch of the next."""
    compiled = jax.jit(function).lower(*arguments).compile()
    compiled(*arguments).block_until_ready()
    times = []
    for _ in range(NUM_BATCHES):
        began = time.perf_counter()
        for _ in range(num_calls):
            result = compiled(*arguments)
        result.block_until_ready()
        times.append((time.perf_counter() - began) / num_calls)
    return statistics.median(times)
