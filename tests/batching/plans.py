"""Step plans without a scheduler."""

import dataclasses
from collections.abc import Sequence as Ids

from jinfer.config import Limits
from jinfer.request import Request, Sequence
from jinfer.sampling_params import SamplingParams
from jinfer.scheduling.step_plan import RowPlan, StepPlan

PLENTY = Limits(page_size=4, num_pages=100, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64)


def limits(**changes: int) -> Limits:
    return dataclasses.replace(PLENTY, **changes)


def new_sequence(prompt_length: int = 1, eos_token_ids: Ids[int] = (), **params) -> Sequence:
    """The first sequence of a request whose parameters are all resolved."""
    resolved = SamplingParams(**params).with_defaults({})
    request = Request.create(
        "test", None, [0] * prompt_length, resolved,
        eos_token_ids=frozenset(eos_token_ids), vocab_size=1000, limits=limits(),
    )  # fmt: skip
    return request.sequences[0]


def decode_row(row: int, start: int, *, new_pages: Ids[int] = ()) -> RowPlan:
    return RowPlan(new_sequence(), row, start, 1, None, start // 4, tuple(new_pages), samples=True)


def chunk(
    row: int, start: int, token_ids: Ids[int], *, new_pages: Ids[int] = (), samples: bool = True, **params
) -> RowPlan:
    first_new_page = -(-start // 4)
    sequence = new_sequence(**params)
    return RowPlan(sequence, row, start, len(token_ids), tuple(token_ids), first_new_page, tuple(new_pages), samples)


def plan(*rows: RowPlan) -> StepPlan:
    return StepPlan(rows)
