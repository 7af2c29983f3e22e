"""Step plans without a scheduler."""

import dataclasses
from collections.abc import Sequence as Ids

from jinfer.config import EngineLimits
from jinfer.requests.new_request import create_request
from jinfer.requests.request import Sequence
from jinfer.requests.sampling_params import SamplingParams
from jinfer.scheduling.step_plan import ChunkPlan, DecodeRows, StepPlan

PLENTY = EngineLimits(page_size=4, num_pages=100, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64)


def limits(**changes: int) -> EngineLimits:
    return dataclasses.replace(PLENTY, **changes)


def new_sequence(prompt_length: int = 1, eos_token_ids: Ids[int] = (), **params) -> Sequence:
    """The first sequence of a request whose parameters are all resolved."""
    resolved = SamplingParams(**params).with_defaults({})
    request = create_request(
        "test",
        None,
        [0] * prompt_length,
        resolved,
        eos_token_ids=frozenset(eos_token_ids),
        vocab_size=1000,
        limits=limits(),
    )
    return request.sequences[0]


def decode_rows(*rows: tuple[int, int] | tuple[int, int, int]) -> DecodeRows:
    """Of (row, start), or (row, start, page id) where the token begins a page."""
    return DecodeRows(
        sequences=[new_sequence() for _ in rows],
        row_ids=[row[0] for row in rows],
        positions=[row[1] for row in rows],
        new_pages=[(i, row[2]) for i, row in enumerate(rows) if len(row) == 3],
    )


def chunk(
    row: int,
    start: int,
    token_ids: Ids[int],
    *,
    new_pages: Ids[int] = (),
    is_last_chunk: bool = True,
    shared_pages: Ids[int] = (),
    copied_page: int | None = None,
    **params,
) -> ChunkPlan:
    first_new_page = len(shared_pages) if shared_pages else -(-start // 4)
    return ChunkPlan(
        new_sequence(**params),
        row,
        start,
        list(token_ids),
        first_new_page,
        list(new_pages),
        is_last_chunk,
        list(shared_pages),
        copied_page,
    )


def plan(decode: DecodeRows, *chunks: ChunkPlan) -> StepPlan:
    return StepPlan(decode, chunks)
