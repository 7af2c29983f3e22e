"""Updates of the device state before a step whose rows join with a cached prefix: page copies and page table
rows.

A plan may have any number of either. They go in groups of a fixed size, each a call of one executable:

    copies       [[5, 9], [0, 0], ...]           (page 5 into page 9; the null page into itself is padding)
    page tables  [[2, 7, 8, 12, 0, ...], ...]    (row 2 begins with pages 7, 8, 12; the null row is padding)
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jinfer.compilation.cache import executables_directory
from jinfer.compilation.program import Compilation
from jinfer.config import CompilerOptions, EngineLimits
from jinfer.execution.compiled_steps import steps_directory
from jinfer.execution.device_state import DeviceState
from jinfer.execution.kv_cache import copy_pages
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import StepPlan

COPIES_AT_A_TIME = 16
ROWS_AT_A_TIME = 8
Groups = Iterable[np.ndarray]


class PrefixUpdates:
    """Two executables, compiled at construction. Keeps no arrays: a state goes in, and the next one comes
    out."""

    def __init__(self, limits: EngineLimits, state: DeviceState, compiler: CompilerOptions) -> None:
        self._limits = limits
        (device,) = state.rows.page_table.devices()
        copies = jax.ShapeDtypeStruct((COPIES_AT_A_TIME, 2), jnp.int32)
        rows = jax.ShapeDtypeStruct((ROWS_AT_A_TIME, 1 + limits.pages_per_sequence), jnp.int32)
        directory = executables_directory(steps_directory(compiler, device))
        compilation = Compilation(device, options=None, directory=directory, traces_directory=None)
        self._copy_pages = compilation.compile_lowered(lower(copy_pages, state.kv_cache, copies))
        self._set_page_tables = compilation.compile_lowered(
            lower(set_page_tables, state.rows.page_table, rows)
        )

    def warm_up(self, state: DeviceState) -> DeviceState:
        """Runs both on padding."""
        copies = np.full((COPIES_AT_A_TIME, 2), NULL_PAGE, np.int32)
        rows = np.zeros((ROWS_AT_A_TIME, 1 + self._limits.pages_per_sequence), np.int32)
        rows[:, 0] = self._limits.max_num_seqs
        return self._run(state, [copies], [rows])

    def __call__(self, state: DeviceState, plan: StepPlan) -> DeviceState:
        """Dispatches the updates of a plan, in most steps none. `state` is donated."""
        return self._run(state, copy_groups(plan), page_table_groups(plan, self._limits))

    def _run(self, state: DeviceState, copy_groups: Groups, page_table_groups: Groups) -> DeviceState:
        kv_cache = state.kv_cache
        page_table = state.rows.page_table
        for copies in copy_groups:
            kv_cache = self._copy_pages(kv_cache, copies)
        for rows in page_table_groups:
            page_table = self._set_page_tables(page_table, rows)
        return DeviceState(kv_cache, state.rows._replace(page_table=page_table))


def set_page_tables(
    page_table: Int32[Array, "rows pages_per_sequence"], new_rows: Int32[Array, "new_rows packed"]
) -> Int32[Array, "rows pages_per_sequence"]:
    """The page table with new_rows[:, 1:] in the rows new_rows[:, 0]."""
    return page_table.at[new_rows[:, 0]].set(new_rows[:, 1:])


def lower(function: Callable[..., Any], donated: Any, group: jax.ShapeDtypeStruct) -> jax.stages.Lowered:
    """Lowers one of the two for arrays, or the shapes of arrays, that it may write to."""
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), donated)
    return jax.jit(function, donate_argnums=0).lower(abstract, group)


def copy_groups(plan: StepPlan) -> Iterator[np.ndarray]:
    """int32 [COPIES_AT_A_TIME, 2]: sources and targets."""
    for copies in _groups(plan.page_copies, COPIES_AT_A_TIME):
        group = np.full((COPIES_AT_A_TIME, 2), NULL_PAGE, np.int32)
        group[: len(copies)] = copies
        yield group


def page_table_groups(plan: StepPlan, limits: EngineLimits) -> Iterator[np.ndarray]:
    """int32 [ROWS_AT_A_TIME, 1 + pages_per_sequence]: a row, and its entries in the page table."""
    joining = [chunk for chunk in plan.chunks if chunk.shared_page_ids]
    for chunks in _groups(joining, ROWS_AT_A_TIME):
        group = np.full((ROWS_AT_A_TIME, 1 + limits.pages_per_sequence), NULL_PAGE, np.int32)
        group[:, 0] = limits.max_num_seqs
        for i, chunk in enumerate(chunks):
            group[i, 0] = chunk.row
            group[i, 1 : 1 + len(chunk.shared_page_ids)] = chunk.shared_page_ids
        yield group


def _groups(items: list, size: int) -> Iterator[list]:
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield group
