"""What one step of the engine computes."""

from dataclasses import dataclass

from jinfer.request import Sequence


@dataclass(frozen=True, eq=False, slots=True)
class DecodeRows:
    """One token of each of `sequences`, oldest first: the newest one, which is on the device and may not be known to
    the host yet.

    Lists side by side, and not an object per row: there may be hundreds of rows in every step. `row_ids` and `starts`
    are the rows on the device and the positions of the tokens; `new_pages` has (place in the lists, page id) of the
    few rows whose token begins a page.
    """

    sequences: list[Sequence]
    row_ids: list[int]
    starts: list[int]
    new_pages: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, eq=False, slots=True)
class ChunkPlan:
    """Tokens of a prompt (or, after a preemption, of prompt and output) from position `start` on.

    `new_page_ids` are appended to the row's page table from entry `first_new_page` on. `samples` says whether the chunk
    reaches the sequence's newest token, so that its last hidden state gives the next one.
    """

    sequence: Sequence
    row: int
    start: int
    token_ids: list[int]
    first_new_page: int
    new_page_ids: list[int]
    samples: bool

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, eq=False, slots=True)
class StepPlan:
    """The rows of one step: those that decode, then the chunks, oldest sequence first in both."""

    decode: DecodeRows
    chunks: tuple[ChunkPlan, ...]

    @property
    def is_decode(self) -> bool:
        """Whether every row is a decode row, so that the step needs no tokens from the host."""
        return not self.chunks

    @property
    def num_rows(self) -> int:
        return len(self.decode) + len(self.chunks)

    @property
    def num_tokens(self) -> int:
        return len(self.decode) + sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def sampling_sequences(self) -> list[Sequence | None]:
        """Row by row, whose next token the step samples; None for a chunk that does not reach the newest token."""
        if not self.chunks:
            return list(self.decode.sequences)
        return [*self.decode.sequences, *(chunk.sequence if chunk.samples else None for chunk in self.chunks)]
