"""A StepPlan as padded arrays: what the host writes and a step on the device reads.

Rows are named by their index in DeviceState; the one after the last (`max_num_seqs`, the null row) takes what
padding writes. A decode step needs only the rows that run and the pages that they begin:

    row_ids      [0, 2, 5, 8]      (three rows of eight, padded to four)
    new_page_ids [0, 17, 0, 0]     (row 2 begins a new page; 0, the null page, is none)

A mixed step brings tokens, positions and the sampling parameters of its rows as well. Its first
`num_decode_rows` rows are decode rows, with one token each; the others are chunks:

    token_ids       [-1, 45, 12, 9, 0, 0]    (one token on the device, three of a prompt, two of padding)
    query_starts    [0, 1, 4, 4, 4, 4, 4]    (row 0 of the batch has one token, row 1 three, the others none)
    num_decode_rows [1]
"""

from dataclasses import dataclass

import numpy as np

from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.packing import Layout, pack
from jinfer.batching.sampling_state import SAMPLING_SIZE, packed_sampling
from jinfer.config import Limits
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import DecodeRows, StepPlan

TOKEN_ON_DEVICE = -1  # in a batch's token_ids: the row's newest token, which the device holds
NOTHING = StepPlan(DecodeRows(sequences=[], row_ids=[], positions=[], new_pages=[]), ())


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's metadata, packed; `layout_of` says how."""

    shape: StepShape
    packed: np.ndarray


def layout_of(shape: StepShape, limits: Limits) -> Layout:
    """The fields of a batch of this shape. All are int32; sampling parameters are bits (see
    `packed_sampling`)."""
    if shape.tokens is None:
        return {"row_ids": (shape.rows,), "new_page_ids": (shape.rows,)}
    # A row that joins with a copied page may fill its first and its last new page in part: n tokens after up
    # to page_size - 1 copied ones fill less than n / page_size + 2 pages.
    max_new_pages = limits.pages_for(shape.tokens) + 2 * shape.rows
    return {
        "row_ids": (shape.rows,),
        "num_decode_rows": (1,),
        "token_ids": (shape.tokens,),
        "query_starts": (shape.rows + 1,),
        "start_positions": (shape.rows,),
        "is_sampled": (shape.rows,),
        "sampling": (shape.rows, SAMPLING_SIZE),
        "page_rows": (max_new_pages,),
        "page_entries": (max_new_pages,),
        "page_ids": (max_new_pages,),
    }


def make_batch(plan: StepPlan, buckets: Buckets, limits: Limits) -> Batch:
    """Pads a plan to the smallest compiled shape that holds it."""
    return _padded_batch(plan, buckets.smallest_for(plan), limits)


def padding_batch(shape: StepShape, limits: Limits) -> Batch:
    """A batch in which nothing runs: it writes to the null row and the null page only."""
    return _padded_batch(NOTHING, shape, limits)


def _padded_batch(plan: StepPlan, shape: StepShape, limits: Limits) -> Batch:
    fields = _decode_fields(plan, shape, limits) if shape.is_decode else _mixed_fields(plan, shape, limits)
    return Batch(shape, pack(layout_of(shape, limits), fields))


def _decode_fields(plan: StepPlan, shape: StepShape, limits: Limits) -> dict[str, np.ndarray]:
    new_page_ids = np.full(shape.rows, NULL_PAGE, np.int32)
    for index, page_id in plan.decode.new_pages:
        new_page_ids[index] = page_id
    return {
        "row_ids": _padded(plan.decode.row_ids, shape.rows, limits.max_num_seqs),
        "new_page_ids": new_page_ids,
    }


def _mixed_fields(plan: StepPlan, shape: StepShape, limits: Limits) -> dict[str, np.ndarray]:
    assert shape.tokens is not None
    decode, chunks = plan.decode, plan.chunks
    token_ids = [TOKEN_ON_DEVICE] * len(decode)
    for chunk in chunks:
        token_ids += chunk.token_ids
    query_lengths = [1] * len(decode) + [chunk.num_tokens for chunk in chunks]
    return {
        "row_ids": _padded(decode.row_ids + [chunk.row for chunk in chunks], shape.rows, limits.max_num_seqs),
        "num_decode_rows": np.array([len(decode)], np.int32),
        "token_ids": _padded(token_ids, shape.tokens, 0),
        "query_starts": _padded(np.cumsum([0, *query_lengths]), shape.rows + 1, len(token_ids)),
        "start_positions": _padded(decode.positions + [chunk.start for chunk in chunks], shape.rows, 0),
        "is_sampled": _padded(
            [1] * len(decode) + [int(chunk.is_last_chunk) for chunk in chunks], shape.rows, 0
        ),
        "sampling": _sampling(plan, shape),
        **_new_pages(plan, shape, limits),
    }


def _sampling(plan: StepPlan, shape: StepShape) -> np.ndarray:
    sampling = np.zeros((shape.rows, SAMPLING_SIZE), np.int32)
    sequences = [*plan.decode.sequences, *(chunk.sequence for chunk in plan.chunks)]
    if sequences:
        sampling[: len(sequences)] = [packed_sampling(sequence) for sequence in sequences]
    return sampling


def _new_pages(plan: StepPlan, shape: StepShape, limits: Limits) -> dict[str, np.ndarray]:
    """The row of each new page, its entry in the row's page table, and its id."""
    decode = plan.decode
    new_pages = [
        (decode.row_ids[i], decode.positions[i] // limits.page_size, page_id)
        for i, page_id in decode.new_pages
    ]
    for chunk in plan.chunks:
        new_pages += [
            (chunk.row, entry, page_id)
            for entry, page_id in enumerate(chunk.new_page_ids, chunk.first_new_page)
        ]
    page_rows, page_entries, page_ids = zip(*new_pages, strict=True) if new_pages else ((), (), ())
    length = layout_of(shape, limits)["page_ids"][0]
    return {
        "page_rows": _padded(page_rows, length, limits.max_num_seqs),
        "page_entries": _padded(page_entries, length, 0),
        "page_ids": _padded(page_ids, length, NULL_PAGE),
    }


def _padded(values, length: int, padding: int) -> np.ndarray:
    array = np.full(length, padding, np.int32)
    array[: len(values)] = values
    return array
