"""A device state as it is in the middle of a long decode."""

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.config import EngineLimits
from jinfer.execution.device_state import DeviceState, abstract_device_state
from jinfer.models.model import Model
from jinfer.placement import default_placement
from pallas_kernels.paged_attention import KVPages


def filled_state(
    model: Model, limits: EngineLimits, context: int, dtype: jnp.dtype, *, has_zero_cache: bool = False
) -> DeviceState:
    """Every row at `context` tokens, on pages in random order.

    Keys and values are normally distributed, as an engine's are: zeros draw less power, and a GPU at its
    limit of power is faster on them.
    """
    state = default_placement().zeros(abstract_device_state(model.config, limits, dtype))
    if not has_zero_cache:
        state = state._replace(
            kv_cache=tuple(_normal_like(pages, i) for i, pages in enumerate(state.kv_cache))
        )
    pages = np.random.default_rng(0).permutation(limits.num_pages - 1) + 1
    table = np.zeros(state.rows.page_table.shape, np.int32)
    table[:-1] = pages.reshape(limits.max_num_seqs, limits.pages_per_sequence)
    lengths = np.full(state.rows.lengths.shape, context, np.int32)
    return state._replace(
        rows=state.rows._replace(page_table=jnp.asarray(table), lengths=jnp.asarray(lengths))
    )


@jax.jit(donate_argnums=0)
def _normal_like(pages: KVPages, seed: int) -> KVPages:
    return jax.tree.map(lambda x: jax.random.normal(jax.random.key(seed), x.shape, x.dtype), pages)
