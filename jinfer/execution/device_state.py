"""Everything on the device that changes: one pytree, donated to every step and returned by it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.batching.sampling_state import SAMPLING_SIZE
from jinfer.config import Limits
from jinfer.execution.kv_cache import KVCache, KVLayout
from jinfer.models.config import ModelConfig


class Rows(NamedTuple):
    """One row per running sequence, and the null row behind them, which padding uses.

    The null row's length, pages and sampling parameters stay zero; its newest token is whatever padding
    sampled."""

    newest_token: Int32[Array, " rows"]
    """Sampled last; its keys and values are not in the cache yet."""
    lengths: Int32[Array, " rows"]
    """Positions whose keys and values are in the cache."""
    page_table: Int32[Array, "rows pages_per_sequence"]
    sampling: Int32[Array, "rows packed"]


class DeviceState(NamedTuple):
    """The KV cache and the rows."""

    kv_cache: KVCache
    rows: Rows


def new_device_state(model: ModelConfig, limits: Limits, dtype: jnp.dtype) -> DeviceState:
    """An empty cache and empty rows."""
    num_rows = limits.max_num_seqs + 1
    return DeviceState(
        kv_cache=KVLayout.of(model, limits.page_size, dtype).empty(limits.num_pages),
        rows=Rows(
            newest_token=jnp.zeros(num_rows, jnp.int32),
            lengths=jnp.zeros(num_rows, jnp.int32),
            page_table=jnp.zeros((num_rows, limits.pages_per_sequence), jnp.int32),
            sampling=jnp.zeros((num_rows, SAMPLING_SIZE), jnp.int32),
        ),
    )
