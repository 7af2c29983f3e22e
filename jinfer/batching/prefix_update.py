"""The prefixes that sequences of a plan join with, as padded arrays: copies of pages, and rows of the page
table.

A plan may have any number of either. They go in groups of a fixed size, each a call of one executable:

    copies       [[5, 9], [0, 0], ...]           (page 5 into page 9; the null page into itself is padding)
    page tables  [[2, 7, 8, 12, 0, ...], ...]    (row 2 begins with pages 7, 8, 12; the null row is padding)
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from jinfer.config import Limits
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import StepPlan

COPIES_AT_A_TIME = 16
ROWS_AT_A_TIME = 8


def copy_groups(plan: StepPlan) -> Iterator[np.ndarray]:
    """int32 [COPIES_AT_A_TIME, 2]: sources and targets."""
    for copies in _groups(plan.page_copies, COPIES_AT_A_TIME):
        group = np.full((COPIES_AT_A_TIME, 2), NULL_PAGE, np.int32)
        group[: len(copies)] = copies
        yield group


def page_table_groups(plan: StepPlan, limits: Limits) -> Iterator[np.ndarray]:
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
