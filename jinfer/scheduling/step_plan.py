"""The plan of one step: its rows, their tokens and their pages."""

from dataclasses import dataclass, field
from operator import attrgetter

from jinfer.requests.request import Sequence

BY_LENGTH = attrgetter("num_computed_tokens")


@dataclass(frozen=True, eq=False, slots=True)
class DecodeRows:
    """One token of each of `sequences`, the longest first: the newest one, which is on the device and may not
    be known to the host yet.

    Attention gives each row a program or a few, more than run at a time. In this order the last ones to start
    have the least to do, and no long one is left to run alone (the longest processing time first: Graham,
    "Bounds on Multiprocessing Timing Anomalies", 1969).

    Lists side by side, and not an object per row: there may be hundreds of rows in every step. `row_ids` are
    the rows on the device, `positions` those of the tokens; `new_pages` has (index in the lists, page id) of
    the few rows whose token begins a page.
    """

    sequences: list[Sequence]
    row_ids: list[int]
    positions: list[int]
    new_pages: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, eq=False, slots=True)
class ChunkPlan:
    """Tokens of a prompt (or, after a preemption, of prompt and output) from position `start` on.

    `new_page_ids` are appended to the row's page table from entry `first_new_page` on. `is_last_chunk` says
    that the chunk reaches the sequence's newest token, so that its last hidden state gives the next one.

    A sequence that joins may find the pages before `first_new_page` in the prefix cache: `shared_page_ids`,
    from entry 0 on. `copied_page_id` is a page whose contents its first new page begins with.
    """

    sequence: Sequence
    row: int
    start: int
    token_ids: list[int]
    first_new_page: int
    new_page_ids: list[int]
    is_last_chunk: bool
    shared_page_ids: list[int] = field(default_factory=list)
    copied_page_id: int | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, eq=False, slots=True)
class StepPlan:
    """The rows of one step: those that decode, the longest first, then the chunks, oldest sequence first."""

    decode: DecodeRows
    chunks: tuple[ChunkPlan, ...]

    @property
    def is_decode(self) -> bool:
        """True if every row is a decode row, so that the step needs no tokens from the host."""
        return not self.chunks

    @property
    def num_rows(self) -> int:
        return len(self.decode) + len(self.chunks)

    @property
    def num_tokens(self) -> int:
        return len(self.decode) + sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def page_copies(self) -> list[tuple[int, int]]:
        """(source, target) of the pages that are copied before the step. No target is a source."""
        return [(c.copied_page_id, c.new_page_ids[0]) for c in self.chunks if c.copied_page_id is not None]

    @property
    def sampling_sequences(self) -> list[Sequence | None]:
        """The sequence of each row, whose next token the step samples; None for a chunk that is not the
        last."""
        if not self.chunks:
            return list(self.decode.sequences)
        return [
            *self.decode.sequences,
            *(chunk.sequence if chunk.is_last_chunk else None for chunk in self.chunks),
        ]


class StepInProgress:
    """The rows planned so far, and the token budget that is left."""

    def __init__(self, token_budget: int) -> None:
        self.decoding: list[Sequence] = []
        self.new_pages: dict[Sequence, int] = {}  # of those that decode: the page that the token begins
        self.chunks: list[ChunkPlan] = []
        self.tokens_left = token_budget
        self.is_short_of_pages = False  # then no sequence is admitted

    def plan(self) -> StepPlan | None:
        """The finished plan; None if nothing was planned."""
        if not self.decoding and not self.chunks:
            return None
        self.decoding.sort(key=BY_LENGTH, reverse=True)
        row_ids = [sequence.row for sequence in self.decoding if sequence.row is not None]
        positions = [sequence.num_computed_tokens - 1 for sequence in self.decoding]
        new_pages = [
            (index, self.new_pages[sequence])
            for index, sequence in enumerate(self.decoding if self.new_pages else ())
            if sequence in self.new_pages
        ]
        return StepPlan(
            DecodeRows(sequences=self.decoding, row_ids=row_ids, positions=positions, new_pages=new_pages),
            tuple(self.chunks),
        )
