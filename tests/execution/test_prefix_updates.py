"""Updates of the device state before a step whose rows join with a cached prefix."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.config import CompilerOptions, EngineLimits
from jinfer.execution.device_state import abstract_device_state
from jinfer.execution.kv_cache import copy_pages
from jinfer.execution.prefix_updates import (
    COPIES_AT_A_TIME,
    ROWS_AT_A_TIME,
    PrefixUpdates,
    copy_groups,
    lower,
    page_table_groups,
    set_page_tables,
)
from jinfer.models.registry import read_model_config
from jinfer.placement import default_placement
from jinfer.weights.hub import DEMO_MODEL, read_json
from tests.batching.plans import chunk, decode_rows, limits, plan
from tests.models.goldens import GOLDENS

LIMITS = EngineLimits(page_size=4, num_pages=9, max_num_seqs=3, max_num_batched_tokens=16, max_model_len=16)
CONFIG = read_model_config(read_json(DEMO_MODEL / "config.json"))
LATENT = read_model_config(read_json(GOLDENS / "deepseek_v2_dense_yarn" / "config.json"))
FLOAT32 = jnp.dtype("float32")
SIZES = limits(max_num_seqs=20, max_model_len=16)  # four pages each


def filled_state(limits=LIMITS, config=CONFIG):
    """Every page holds its own number, in every layer, and so does every row of the page table."""
    state = default_placement().zeros(abstract_device_state(config, limits, FLOAT32))
    table = jnp.broadcast_to(jnp.arange(4, dtype=jnp.int32)[:, None] + 50, state.rows.page_table.shape)
    return state._replace(
        kv_cache=tuple(
            jax.tree.map(functools.partial(numbered, axis=pages.page_axis, layer=layer), pages)
            for layer, pages in enumerate(state.kv_cache)
        ),
        rows=state.rows._replace(page_table=table.at[3].set(0)),
    )


def numbered(array: jax.Array, *, axis: int, layer: int) -> jax.Array:
    page = jnp.arange(array.shape[axis]).reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    return jnp.broadcast_to(16 * page + layer, array.shape).astype(array.dtype)


@pytest.mark.parametrize(
    ("config", "kv_cache_dtype"),
    [(CONFIG, "auto"), (CONFIG, "int8"), (CONFIG, "fp8_e4m3"), (LATENT, "auto")],
    ids=["auto", "int8", "fp8_e4m3", "latent"],
)
def test_pages_are_copied_in_every_layer_and_rows_are_set(config, kv_cache_dtype):
    limits = dataclasses.replace(LIMITS, kv_cache_dtype=kv_cache_dtype)
    before = jax.tree.map(np.array, filled_state(limits, config))
    updates = PrefixUpdates(limits=limits, state=filled_state(limits, config), compiler=CompilerOptions())
    joining = chunk(1, 9, [1, 2], new_pages=[6], shared_pages=[3, 2], copied_page=5)
    after = updates(filled_state(limits, config), plan(decode_rows((0, 3)), joining))
    after = jax.tree.map(np.array, after)

    for pages, new_pages in zip(before.kv_cache, after.kv_cache, strict=True):
        for old, new in zip(jax.tree.leaves(pages), jax.tree.leaves(new_pages), strict=True):
            axis, expected = pages.page_axis, old.copy()
            np.moveaxis(expected, axis, 0)[6] = np.moveaxis(old, axis, 0)[5]
            np.testing.assert_array_equal(new, expected)
    assert after.rows.page_table.tolist() == [[50] * 4, [3, 2, 0, 0], [52] * 4, [0] * 4]
    for name in ("newest_token", "lengths", "sampling"):
        np.testing.assert_array_equal(getattr(after.rows, name), getattr(before.rows, name))


def test_a_warm_up_and_a_step_that_shares_nothing_change_nothing():
    before = jax.tree.map(np.array, filled_state())
    updates = PrefixUpdates(limits=LIMITS, state=filled_state(), compiler=CompilerOptions())
    after = updates(updates.warm_up(filled_state()), plan(decode_rows((0, 3))))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, after), before)


@pytest.mark.parametrize(
    ("config", "dtype", "kv_cache_dtype"),
    [
        (CONFIG, "float32", "auto"),
        (CONFIG, "bfloat16", "auto"),
        (CONFIG, "float32", "int8"),
        (CONFIG, "bfloat16", "fp8_e4m3"),
        (LATENT, "float32", "auto"),
        (LATENT, "bfloat16", "auto"),
    ],
    ids=["float32", "bfloat16", "int8", "fp8_e4m3", "latent-float32", "latent-bfloat16"],
)
def test_the_cache_is_not_copied(config, dtype, kv_cache_dtype, users_compiler_options):
    limits = dataclasses.replace(LIMITS, kv_cache_dtype=kv_cache_dtype)
    state = default_placement().zeros(abstract_device_state(config, limits, jnp.dtype(dtype)))
    copies = jax.ShapeDtypeStruct((COPIES_AT_A_TIME, 2), jnp.int32)
    compiled = lower(copy_pages, state.kv_cache, copies).compile(users_compiler_options)
    assert_in_place(compiled, state.kv_cache)
    for array in jax.tree.leaves(state.kv_cache[0]):
        shape = ",".join(map(str, array.shape))
        made = re.findall(rf"= \w+\[{shape}\]\S* ([\w-]+)\(", compiled.as_text())
        assert made, "the cache is in the program"
        assert not {"copy", "dynamic-update-slice"} & set(made)


def test_the_page_table_is_not_copied():
    table = default_placement().zeros(abstract_device_state(CONFIG, LIMITS, FLOAT32)).rows.page_table
    rows = jax.ShapeDtypeStruct((ROWS_AT_A_TIME, 1 + LIMITS.pages_per_sequence), jnp.int32)
    assert_in_place(lower(set_page_tables, table, rows).compile(), table)


def assert_in_place(compiled: jax.stages.Compiled, donated) -> None:
    assert compiled.memory_analysis().alias_size_in_bytes == sum(x.nbytes for x in jax.tree.leaves(donated))


def joining(num_rows: int):
    """Rows with two shared pages, and a third that begins as a copy."""
    return [
        chunk(row, 9, [1, 2], new_pages=[100 + row], shared_pages=[10 + row, 40 + row], copied_page=70 + row)
        for row in range(num_rows)
    ]


def test_a_step_that_shares_nothing_sends_nothing():
    step = plan(decode_rows((0, 5)), chunk(1, 0, [1, 2, 3], new_pages=[7]))
    assert list(copy_groups(step)) == list(page_table_groups(step, SIZES)) == []


def test_the_groups_of_the_docstring():
    step = plan(decode_rows(), chunk(2, 12, [1], new_pages=[9], shared_pages=[7, 8, 12], copied_page=5))
    (copies,), (rows,) = copy_groups(step), page_table_groups(step, SIZES)
    assert copies.tolist() == [[5, 9], *[[0, 0]] * (COPIES_AT_A_TIME - 1)]
    assert rows.tolist() == [[2, 7, 8, 12, 0], *[[20, 0, 0, 0, 0]] * (ROWS_AT_A_TIME - 1)]
    assert copies.dtype == rows.dtype == np.int32


def test_there_may_be_more_than_fit_into_a_group():
    step = plan(decode_rows(), *joining(20))
    copies, rows = list(copy_groups(step)), list(page_table_groups(step, SIZES))
    assert (len(copies), len(rows)) == (2, 3)
    assert np.concatenate(copies)[:20].tolist() == [[70 + row, 100 + row] for row in range(20)]
    assert np.concatenate(rows)[:20].tolist() == [[row, 10 + row, 40 + row, 0, 0] for row in range(20)]
