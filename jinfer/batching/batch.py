"""A StepPlan as one padded int32 vector: what the host writes and a step on the device reads.

Its fields lie side by side, so that they cross to the device in one transfer. Rows are named by their index
in DeviceState; the one after the last (`max_num_seqs`, the null row) takes what padding writes. A decode step
needs only the rows that run and the pages that they begin:

    row_ids      [0, 2, 5, 8]      (three rows of eight, padded to four)
    new_page_ids [0, 17, 0, 0]     (row 2 begins a new page; 0, the null page, is none)

mixed_batch.py has what a mixed step brings besides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Int32

from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.mixed_batch import Fields, mixed_fields
from jinfer.batching.sampling_state import SAMPLING_SIZE
from jinfer.config import EngineLimits
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import DecodeRows, StepPlan

NOTHING = StepPlan(DecodeRows(sequences=[], row_ids=[], positions=[], new_pages=[]), ())

Layout = Mapping[str, tuple[int, ...]]
"""The shape of each field, in the order in which they lie in the vector."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's metadata, packed; `layout_of` says how."""

    shape: StepShape
    packed: np.ndarray


def layout_of(shape: StepShape, limits: EngineLimits) -> Layout:
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


def make_batch(plan: StepPlan, *, buckets: Buckets, limits: EngineLimits) -> Batch:
    """Pads a plan to the smallest compiled shape that holds it."""
    return _padded_batch(plan, smallest_shape(plan, buckets), limits)


def padding_batch(shape: StepShape, limits: EngineLimits) -> Batch:
    """A batch in which nothing runs: it writes to the null row and the null page only."""
    return _padded_batch(NOTHING, shape, limits)


def smallest_shape(plan: StepPlan, buckets: Buckets) -> StepShape:
    """The shape that pads a plan least. The scheduler's limits see to it that there is one."""
    if plan.is_decode:
        return next(shape for shape in buckets.decode if shape.rows >= len(plan.decode))
    num_tokens, num_rows = plan.num_tokens, plan.num_rows
    return next(
        s for s in buckets.mixed if s.tokens is not None and s.tokens >= num_tokens and s.rows >= num_rows
    )


def _padded_batch(plan: StepPlan, shape: StepShape, limits: EngineLimits) -> Batch:
    fields = _decode_fields(plan, shape, limits) if shape.is_decode else mixed_fields(plan, limits)
    return Batch(shape, pack(layout_of(shape, limits), fields))


def _decode_fields(plan: StepPlan, shape: StepShape, limits: EngineLimits) -> Fields:
    new_page_ids = np.full(shape.rows, NULL_PAGE, np.int32)
    for index, page_id in plan.decode.new_pages:
        new_page_ids[index] = page_id
    return {"row_ids": (plan.decode.row_ids, limits.max_num_seqs), "new_page_ids": (new_page_ids, NULL_PAGE)}


def size_of(layout: Layout) -> int:
    """Elements in the vector."""
    return sum(math.prod(shape) for shape in layout.values())


def pack(layout: Layout, fields: Fields) -> np.ndarray:
    """The fields as one int32 vector, each padded to its shape along the first axis. Every field of the
    layout must be given, in integers that fit into it."""
    packed = np.empty(size_of(layout), np.int32)
    begin = 0
    for name, shape in layout.items():
        end = begin + math.prod(shape)
        values, padding = fields[name]
        field = packed[begin:end].reshape(shape)
        field[len(values) :] = padding
        if len(values):
            np.copyto(field[: len(values)], values, casting="same_kind")
        begin = end
    return packed


def unpack(layout: Layout, packed: Int32[Array, " packed"]) -> dict[str, Array]:
    """The fields of a packed vector, by static slices: free once compiled."""
    fields = {}
    begin = 0
    for name, shape in layout.items():
        end = begin + math.prod(shape)
        fields[name] = packed[begin:end].reshape(shape)
        begin = end
    return fields
