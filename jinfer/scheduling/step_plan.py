"""What one step of the engine computes."""

from dataclasses import dataclass

from jinfer.request import Sequence


@dataclass(frozen=True, eq=False)
class RowPlan:
    """The part of a step that belongs to one sequence: `num_tokens` tokens from position `start` on.

    `token_ids` is None for a decode row: its one token is on the device and may not be known to the host yet. Otherwise
    it is a chunk of the prompt (or, after a preemption, of prompt and output). `new_page_ids` are appended to the row's
    page table from entry `first_new_page` on. `samples` says whether the chunk reaches the sequence's newest token, so
    that the step's last hidden state gives the next one.
    """

    sequence: Sequence
    row: int
    start: int
    num_tokens: int
    token_ids: tuple[int, ...] | None
    first_new_page: int
    new_page_ids: tuple[int, ...]
    samples: bool


@dataclass(frozen=True)
class StepPlan:
    """The rows of one step, oldest sequence first within decode rows and within chunks."""

    rows: tuple[RowPlan, ...]

    @property
    def is_decode(self) -> bool:
        """Whether every row is a decode row, so that the step needs no tokens from the host."""
        return all(row.token_ids is None for row in self.rows)

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)
