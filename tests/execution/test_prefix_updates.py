"""Updates of the device state before a step whose rows join with a cached prefix."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.batching.prefix_update import COPIES_AT_A_TIME, ROWS_AT_A_TIME
from jinfer.config import CompilerOptions, Limits
from jinfer.execution.device_state import new_device_state
from jinfer.execution.kv_cache import copy_pages
from jinfer.execution.prefix_updates import PrefixUpdates, lower, set_page_tables
from jinfer.models.registry import read_model_config
from jinfer.weights.hub import DEMO_MODEL, read_json
from pallas_kernels.paged_attention import KVPages
from tests.batching.plans import chunk, decode_rows, plan

LIMITS = Limits(page_size=4, num_pages=9, max_num_seqs=3, max_num_batched_tokens=16, max_model_len=16)
CONFIG = read_model_config(read_json(DEMO_MODEL / "config.json"))
FLOAT32 = jnp.dtype("float32")


def filled_state():
    """Every page holds its own number, in every layer, and so does every row of the page table."""
    state = new_device_state(CONFIG, LIMITS, FLOAT32)
    page = jnp.arange(LIMITS.num_pages, dtype=FLOAT32)[None, :, None, None, None]
    table = jnp.broadcast_to(jnp.arange(4, dtype=jnp.int32)[:, None] + 50, state.rows.page_table.shape)
    return state._replace(
        kv_cache=tuple(
            KVPages(jnp.broadcast_to(page, layer.array.shape) + i / 16)
            for i, layer in enumerate(state.kv_cache)
        ),
        rows=state.rows._replace(page_table=table.at[3].set(0)),
    )


def test_pages_are_copied_in_every_layer_and_rows_are_set():
    before = jax.tree.map(np.array, filled_state())
    updates = PrefixUpdates(LIMITS, filled_state(), CompilerOptions())
    joining = chunk(1, 9, [1, 2], new_pages=[6], shared_pages=[3, 2], copied_page=5)
    after = jax.tree.map(np.array, updates(filled_state(), plan(decode_rows((0, 3)), joining)))

    for old, new in zip(jax.tree.leaves(before.kv_cache), jax.tree.leaves(after.kv_cache), strict=True):
        expected = old.copy()
        expected[:, 6] = old[:, 5]
        np.testing.assert_array_equal(new, expected)
    assert after.rows.page_table.tolist() == [[50] * 4, [3, 2, 0, 0], [52] * 4, [0] * 4]
    for name in ("newest_token", "lengths", "sampling"):
        np.testing.assert_array_equal(getattr(after.rows, name), getattr(before.rows, name))


def test_a_warm_up_and_a_step_that_shares_nothing_change_nothing():
    before = jax.tree.map(np.array, filled_state())
    updates = PrefixUpdates(LIMITS, filled_state(), CompilerOptions())
    after = updates(updates.warm_up(filled_state()), plan(decode_rows((0, 3))))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, after), before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_is_not_copied(dtype, users_compiler_options):
    state = new_device_state(CONFIG, LIMITS, jnp.dtype(dtype))
    copies = jax.ShapeDtypeStruct((COPIES_AT_A_TIME, 2), jnp.int32)
    compiled = lower(copy_pages, state.kv_cache, copies).compile(users_compiler_options)
    assert_in_place(compiled, state.kv_cache)
    layer = ",".join(map(str, state.kv_cache[0].array.shape))
    made = re.findall(rf"= \w+\[{layer}\]\S* ([\w-]+)\(", compiled.as_text())
    assert made, "the cache is in the program"
    assert not {"copy", "dynamic-update-slice"} & set(made)


def test_the_page_table_is_not_copied():
    table = new_device_state(CONFIG, LIMITS, FLOAT32).rows.page_table
    rows = jax.ShapeDtypeStruct((ROWS_AT_A_TIME, 1 + LIMITS.pages_per_sequence), jnp.int32)
    assert_in_place(lower(set_page_tables, table, rows).compile(), table)


def assert_in_place(compiled: jax.stages.Compiled, donated) -> None:
    assert compiled.memory_analysis().alias_size_in_bytes == sum(x.nbytes for x in jax.tree.leaves(donated))
