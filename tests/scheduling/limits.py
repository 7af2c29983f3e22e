"""The limits of an engine with room for all, and a plan in short, for tests of the scheduler."""

import dataclasses

from jinfer.config import EngineLimits
from jinfer.scheduling.step_plan import StepPlan
from tests.scheduling.fake_device import rows_of

PLENTY = EngineLimits(page_size=4, num_pages=100, max_num_seqs=4, max_num_batched_tokens=8, max_model_len=32)


def limits(**changes: int) -> EngineLimits:
    return dataclasses.replace(PLENTY, **changes)


def summary(plan: StepPlan | None) -> list[tuple[int, int, int]] | None:
    """(arrival, start, num_tokens) of each row."""
    return plan and [
        (row.sequence.arrival, row.start, row.num_tokens) for row in rows_of(plan, PLENTY.page_size)
    ]
