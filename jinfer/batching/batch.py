"""A StepPlan as padded arrays: what the host writes and a step on the device reads.

Rows are named by their place in DeviceState; the row behind the last one (`max_num_seqs`, the null row) takes what
padding writes. A decode step needs only who runs and who got a new page:

    row_ids      [0, 2, 5, 8]      (three rows of eight, padded to four)
    new_page_ids [0, 17, 0, 0]     (row 2 begins a new page; 0, the null page, is none)

A mixed step brings tokens, positions and the sampling parameters of its rows as well, those of decode rows first:

    token_ids       [-1, 45, 12, 9, 0, 0]    (a token that is on the device, three of a prompt, two of padding)
    query_starts    [0, 1, 4, 4, 4, 4, 4]    (row 0 of the batch has one token, row 1 three, the others none)
    num_decode_rows [1]
"""

from dataclasses import dataclass

import numpy as np

from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.packing import Layout, pack
from jinfer.batching.sampling_words import NUM_SAMPLING_WORDS, sampling_words
from jinfer.config import Limits
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import RowPlan, StepPlan

TOKEN_ON_DEVICE = -1  # in a batch's token_ids: the row's newest token, which the host may not know


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's metadata, packed; `layout_of` says how."""

    shape: StepShape
    words: np.ndarray


def layout_of(shape: StepShape, limits: Limits) -> Layout:
    """The fields of a batch of this shape. All are int32; sampling parameters are bits (see `sampling_words`)."""
    if shape.tokens is None:
        return {"row_ids": (shape.rows,), "new_page_ids": (shape.rows,)}
    most_new_pages = limits.pages_for(shape.tokens) + shape.rows  # each row may begin in the middle of a page
    return {
        "num_decode_rows": (1,),
        "row_ids": (shape.rows,),
        "token_ids": (shape.tokens,),
        "query_starts": (shape.rows + 1,),
        "starts": (shape.rows,),
        "samples": (shape.rows,),
        "sampling": (shape.rows, NUM_SAMPLING_WORDS),
        "page_rows": (most_new_pages,),
        "page_entries": (most_new_pages,),
        "page_ids": (most_new_pages,),
    }


def make_batch(plan: StepPlan, buckets: Buckets, limits: Limits) -> Batch:
    """Pads a plan to the smallest compiled shape that holds it."""
    return _padded_batch(plan, buckets.smallest_for(plan), limits)


def padding_batch(shape: StepShape, limits: Limits) -> Batch:
    """A batch in which nothing runs: it writes to the null row and the null page only."""
    return _padded_batch(StepPlan(rows=()), shape, limits)


def _padded_batch(plan: StepPlan, shape: StepShape, limits: Limits) -> Batch:
    fields = _decode_fields(plan, shape, limits) if shape.is_decode else _mixed_fields(plan, shape, limits)
    return Batch(shape, pack(layout_of(shape, limits), fields))


def _decode_fields(plan: StepPlan, shape: StepShape, limits: Limits) -> dict[str, np.ndarray]:
    return {
        "row_ids": _padded([row.row for row in plan.rows], shape.rows, limits.max_num_seqs),
        "new_page_ids": _padded([_only_new_page(row) for row in plan.rows], shape.rows, NULL_PAGE),
    }


def _only_new_page(row: RowPlan) -> int:
    return row.new_page_ids[0] if row.new_page_ids else NULL_PAGE


def _mixed_fields(plan: StepPlan, shape: StepShape, limits: Limits) -> dict[str, np.ndarray]:
    assert shape.tokens is not None
    rows = plan.rows
    token_ids = [token_id for row in rows for token_id in (row.token_ids or (TOKEN_ON_DEVICE,))]
    query_ends = np.cumsum([row.num_tokens for row in rows], dtype=np.int32)
    sampling = np.zeros((shape.rows, NUM_SAMPLING_WORDS), np.int32)
    for i, row in enumerate(rows):
        sampling[i] = sampling_words(row.sequence)
    new_pages = [
        (row.row, row.first_new_page + i, page_id) for row in rows for i, page_id in enumerate(row.new_page_ids)
    ]
    page_rows, page_entries, page_ids = zip(*new_pages, strict=True) if new_pages else ((), (), ())
    null_row, num_new_pages = limits.max_num_seqs, layout_of(shape, limits)["page_ids"][0]
    num_decode_rows = sum(row.token_ids is None for row in rows)
    return {
        "num_decode_rows": np.array([num_decode_rows], np.int32),
        "row_ids": _padded([row.row for row in rows], shape.rows, null_row),
        "token_ids": _padded(token_ids, shape.tokens, 0),
        "query_starts": _padded([0, *query_ends], shape.rows + 1, plan.num_tokens),
        "starts": _padded([row.start for row in rows], shape.rows, 0),
        "samples": _padded([int(row.samples) for row in rows], shape.rows, 0),
        "sampling": sampling,
        "page_rows": _padded(page_rows, num_new_pages, null_row),
        "page_entries": _padded(page_entries, num_new_pages, 0),
        "page_ids": _padded(page_ids, num_new_pages, NULL_PAGE),
    }


def _padded(values, length: int, padding: int) -> np.ndarray:
    array = np.full(length, padding, np.int32)
    array[: len(values)] = values
    return array
