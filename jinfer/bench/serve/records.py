"""The record of a request, and its times as users know them. Plain Python."""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_SENT = "not sent"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class RequestRecord:
    """A request that was planned. Times are in seconds after the load began.

    - `conversation`, `turn`: which of the workload, from 0.
    - `planned_s`: when it should have been sent; None where that was never known.
    - `chunk_times_s`: when each chunk with a token arrived, though its text may not be complete.
    - `ended_s`: when the answer was complete, or the failure known.
    - `num_*_tokens`: the server's usage; None where it does not say.
    - `failure`: the kind, and `message` what was said of it; None of an answer that is whole.
    """

    conversation: int
    turn: int
    planned_s: float | None = None
    sent_s: float | None = None
    chunk_times_s: tuple[float, ...] = ()
    ended_s: float | None = None
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None
    num_output_tokens: int | None = None
    finish_reason: str | None = None
    failure: str | None = None
    message: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.failure is None

    @property
    def lateness_s(self) -> float | None:
        """Time between when the request should have been sent and when it was: the generator's own fault."""
        return None if self.sent_s is None or self.planned_s is None else self.sent_s - self.planned_s

    @property
    def ttft_s(self) -> float | None:
        """Time from sending to the first chunk with a token."""
        return None if self.sent_s is None or not self.chunk_times_s else self.chunk_times_s[0] - self.sent_s

    @property
    def e2e_s(self) -> float | None:
        """Time from sending to the end of the answer."""
        return None if self.sent_s is None or self.ended_s is None else self.ended_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """(E2E - TTFT) / (output tokens - 1); None of one token, and where tokens were not counted."""
        if self.ttft_s is None or self.e2e_s is None or not self.num_output_tokens:
            return None
        return (
            None if self.num_output_tokens < 2 else (self.e2e_s - self.ttft_s) / (self.num_output_tokens - 1)
        )

    @property
    def itl_s(self) -> list[float]:
        """Times between chunks with a token."""
        times = self.chunk_times_s
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    def line(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> "RequestRecord":
        """The record of a `line`."""
        return cls(**{**line, "chunk_times_s": tuple(line["chunk_times_s"])})
