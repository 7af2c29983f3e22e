"""The few shapes that steps are compiled for."""

from dataclasses import dataclass

from jinfer.config import EngineLimits

# A step of so few is bound by reading the weights, and padding costs it next to nothing.
FEW_TOKENS = (16, 64)
# From here on a step's time grows with its tokens, and less than a third of them may be padding.
MANY_TOKENS = 256
# Of a large mixed step: most have a few chunks, and logits of all rows that may run take 0.9 ms of 8B's.
FEW_ROWS = 16
LARGE = 1024  # tokens
STEPS_PER_OCTAVE = (1.25, 1.625, 2.0)  # of row buckets above 8: at most 19% of the rows are padding


@dataclass(frozen=True, order=True)
class StepShape:
    """A compiled shape: a decode step of `rows` rows, or a mixed step of `tokens` tokens that belong to
    `rows` rows."""

    rows: int
    tokens: int | None = None

    @property
    def is_decode(self) -> bool:
        return self.tokens is None


@dataclass(frozen=True)
class Buckets:
    """All shapes of an engine, each group in ascending order."""

    decode: tuple[StepShape, ...]
    mixed: tuple[StepShape, ...]

    @classmethod
    def for_limits(cls, limits: EngineLimits) -> "Buckets":
        """Row counts 1, 2, 4, 8, 10, 13, 16, 20, ... and token counts 16, 64, 256, 384, 512, 768, ..., of
        which those from 1024 on are for 16 rows and for as many as there may be."""
        token_counts = _token_counts(limits.max_num_batched_tokens)
        return cls(
            decode=tuple(StepShape(rows) for rows in _row_counts(limits.max_num_seqs)),
            mixed=tuple(
                StepShape(rows, tokens)
                for tokens in token_counts
                for rows in _rows_of_mixed(tokens, limits.max_num_seqs)
            ),
        )

    @property
    def all(self) -> tuple[StepShape, ...]:
        return self.decode + self.mixed


def _row_counts(max_rows: int) -> list[int]:
    """1, 2, 4, 8, then three steps an octave: 8 -> 10, 13, 16 -> 20, 26, 32 -> ... up to `max_rows`."""
    counts = [count for count in (1, 2, 4, 8) if count < max_rows]
    octave = 8
    while octave < max_rows:
        counts += [int(octave * step) for step in STEPS_PER_OCTAVE if octave * step < max_rows]
        octave *= 2
    return [*counts, max_rows]


def _rows_of_mixed(tokens: int, max_rows: int) -> list[int]:
    """The row counts of a mixed step: as many as there may be, and a few besides where the tokens are
    many."""
    rows = min(tokens, max_rows)
    return [FEW_ROWS, rows] if tokens >= LARGE and rows > FEW_ROWS else [rows]


def _token_counts(max_tokens: int) -> list[int]:
    """16, 64, then two steps an octave: 256, 384, 512, 768, ... up to `max_tokens`."""
    counts = [count for count in FEW_TOKENS if count < max_tokens]
    octave = MANY_TOKENS
    while octave < max_tokens:
        counts += [count for count in (octave, octave * 3 // 2) if count < max_tokens]
        octave *= 2
    return [*counts, max_tokens]
