"""Everything on the device that changes: one pytree, donated to every step and returned by it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.batching.sampling_state import PROMPT_LENGTH, SAMPLING_SIZE
from jinfer.config import EngineLimits
from jinfer.execution.kv_cache import KVCache, KVLayout
from jinfer.models.config import ModelConfig
from jinfer.scheduling.page_pool import NULL_PAGE


class Rows(NamedTuple):
    """One row per running sequence and, after them, the null row, which padding uses.

    The null row's length, pages and sampling parameters stay zero; its newest token is whatever padding
    sampled."""

    newest_token: Int32[Array, " rows"]
    """Sampled last; its keys and values are not in the cache yet."""
    lengths: Int32[Array, " rows"]
    """Positions whose keys and values are in the cache."""
    page_table: Int32[Array, "rows pages_per_sequence"]
    sampling: Int32[Array, "rows packed"]

    def prompt_lengths(self, row_ids: Int32[Array, " ids"]) -> Int32[Array, " ids"]:
        """The prompt length of each row's request."""
        return self.sampling[row_ids, PROMPT_LENGTH]

    def with_pages(
        self, row_ids: Int32[Array, " ids"], entries: Int32[Array, " ids"], page_ids: Int32[Array, " ids"]
    ) -> "Rows":
        """The rows with `page_ids` in the page table at (row_ids, entries). The null page stands for no
        change."""
        dropped = self.page_table.shape[1]
        entries = jnp.where(page_ids == NULL_PAGE, dropped, entries)
        return self._replace(page_table=self.page_table.at[row_ids, entries].set(page_ids, mode="drop"))

    def with_tokens(self, row_ids: Int32[Array, " ids"], token_ids: Int32[Array, " ids"]) -> "Rows":
        """The rows with sampled tokens as their newest. NOT_FINITE becomes a token that can be looked up: the
        row may run once more before the host knows."""
        return self._replace(newest_token=self.newest_token.at[row_ids].set(jnp.maximum(token_ids, 0)))

    def with_lengths(self, row_ids: Int32[Array, " ids"], lengths: Int32[Array, " ids"]) -> "Rows":
        """The rows with new lengths."""
        return self._replace(lengths=self.lengths.at[row_ids].set(lengths))


class DeviceState(NamedTuple):
    """The KV cache and the rows."""

    kv_cache: KVCache
    rows: Rows


def abstract_device_state(model: ModelConfig, limits: EngineLimits, dtype: jnp.dtype) -> DeviceState:
    """The shapes of an engine's state, which is all zeros at first."""
    num_rows = limits.max_num_seqs + 1

    def int32(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    rows = Rows(
        newest_token=int32(num_rows),
        lengths=int32(num_rows),
        page_table=int32(num_rows, limits.pages_per_sequence),
        sampling=int32(num_rows, SAMPLING_SIZE),
    )
    return DeviceState(KVLayout.in_limits(model, limits, dtype).abstract(limits.num_pages), rows)
