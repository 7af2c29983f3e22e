"""The fields of a mixed batch: the tokens, positions and sampling parameters that a plan with chunks brings.

The first `num_decode_rows` rows are decode rows, with one token each; the others are chunks:

    token_ids       [-1, 45, 12, 9, 0, 0]    (one token on the device, three of a prompt, two of padding)
    query_starts    [0, 1, 4, 4, 4, 4, 4]    (row 0 of the batch has one token, row 1 three, the others none)
    num_decode_rows [1]
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from jinfer.batching.sampling_state import packed_sampling
from jinfer.config import EngineLimits
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import StepPlan

TOKEN_ON_DEVICE = -1  # in a batch's token_ids: the row's newest token, which the device holds

Fields = Mapping[str, tuple[Sequence[int] | Sequence[np.ndarray] | np.ndarray, int]]
"""The values of each field of a batch, along its first axis, and the value that pads it."""


def mixed_fields(plan: StepPlan, limits: EngineLimits) -> Fields:
    """All fields of a mixed batch. Padding belongs to the null row and writes to the null page."""
    decode, chunks = plan.decode, plan.chunks
    token_ids = [TOKEN_ON_DEVICE] * len(decode)
    for chunk in chunks:
        token_ids += chunk.token_ids
    query_lengths = [1] * len(decode) + [chunk.num_tokens for chunk in chunks]
    sequences = [*decode.sequences, *(chunk.sequence for chunk in chunks)]
    return {
        "row_ids": (decode.row_ids + [chunk.row for chunk in chunks], limits.max_num_seqs),
        "num_decode_rows": ([len(decode)], 0),
        "token_ids": (token_ids, 0),
        "query_starts": (list(accumulate(query_lengths, initial=0)), len(token_ids)),
        "start_positions": (decode.positions + [chunk.start for chunk in chunks], 0),
        "is_sampled": ([1] * len(decode) + [int(chunk.is_last_chunk) for chunk in chunks], 0),
        "sampling": ([packed_sampling(sequence) for sequence in sequences], 0),
        **_new_pages(plan, limits),
    }


def _new_pages(plan: StepPlan, limits: EngineLimits) -> Fields:
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
    return {
        "page_rows": (page_rows, limits.max_num_seqs),
        "page_entries": (page_entries, 0),
        "page_ids": (page_ids, NULL_PAGE),
    }
