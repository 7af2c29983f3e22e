"""Everything on the device that changes: one pytree, donated to every step and returned by it."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from jinfer.batching.sampling_state import SAMPLING_SIZE
from jinfer.config import Limits
from jinfer.models.config import ModelConfig


class Rows(NamedTuple):
    """One row per running sequence, and the null row behind them, which padding uses.

    The null row's length, pages and sampling parameters stay zero; its newest token is whatever padding sampled."""

    newest_token: Int32[Array, " rows"]
    """Sampled last; its keys and values are not in the cache yet."""
    lengths: Int32[Array, " rows"]
    """Positions whose keys and values are in the cache."""
    page_table: Int32[Array, "rows pages_per_sequence"]
    sampling: Int32[Array, "rows packed"]


class DeviceState(NamedTuple):
    """The KV cache, one array per layer (so that XLA updates each in place), and the rows.

    Layers are `(2, num_pages, page_size, num_kv_heads, head_dim)`: keys, then values.
    """

    kv_cache: tuple[Float[Array, "2 num_pages page_size num_kv_heads head_dim"], ...]
    rows: Rows


def kv_layer_shape(model: ModelConfig, limits: Limits) -> tuple[int, ...]:
    """The shape of one layer of the KV cache."""
    return (2, limits.num_pages, limits.page_size, model.num_kv_heads, model.head_dim)


def new_device_state(model: ModelConfig, limits: Limits, dtype: jnp.dtype) -> DeviceState:
    """An empty cache and empty rows."""
    num_rows = limits.max_num_seqs + 1
    return DeviceState(
        kv_cache=tuple(jnp.zeros(kv_layer_shape(model, limits), dtype) for _ in range(model.num_layers)),
        rows=Rows(
            newest_token=jnp.zeros(num_rows, jnp.int32),
            lengths=jnp.zeros(num_rows, jnp.int32),
            page_table=jnp.zeros((num_rows, limits.pages_per_sequence), jnp.int32),
            sampling=jnp.zeros((num_rows, SAMPLING_SIZE), jnp.int32),
        ),
    )
