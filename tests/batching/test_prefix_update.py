"""What a step shares, in groups of a fixed size: every copy and every row, and padding that does no harm."""

import numpy as np

from jinfer.batching.prefix_update import COPIES_AT_A_TIME, ROWS_AT_A_TIME, copy_groups, page_table_groups
from tests.batching.plans import chunk, decode_rows, limits, plan

SIZES = limits(max_num_seqs=20, max_model_len=16)  # four pages each


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
