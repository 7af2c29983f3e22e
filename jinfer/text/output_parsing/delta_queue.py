"""The deltas of one answer, as its parts come."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from jinfer.text.output_parsing.deltas import (
    ContentDelta,
    Delta,
    ReasoningDelta,
    ToolCallArguments,
    ToolCallStart,
)


class DeltaQueue:
    """The deltas that were not taken yet. It is the sink of calls, too."""

    def __init__(self, new_call_id: Callable[[], str]) -> None:
        self._new_call_id = new_call_id
        self._deltas: list[Delta] = []
        self.num_calls = 0

    def content(self, text: str) -> None:
        self._deltas.append(ContentDelta(text))

    def reasoning(self, text: str) -> None:
        self._deltas.append(ReasoningDelta(text))

    def start(self, name: str) -> None:
        self._deltas.append(ToolCallStart(self.num_calls, self._new_call_id(), name))
        self.num_calls += 1

    def arguments(self, text: str) -> None:
        self._deltas.append(ToolCallArguments(self.num_calls - 1, text))

    def go_back(self, deltas: Iterable[Delta], *, first_call: int | None) -> None:
        """Forgets all that came, `deltas`, but the calls from `first_call` on, which become the first; None
        forgets them too."""
        calls = [delta for delta in deltas if isinstance(delta, ToolCallStart | ToolCallArguments)]
        kept = [delta for delta in calls if first_call is not None and delta.index >= first_call]
        self._deltas = [replace(delta, index=delta.index - (first_call or 0)) for delta in kept]
        self.num_calls -= first_call if first_call is not None else self.num_calls

    def take(self) -> list[Delta]:
        """The deltas since the last time, neighbours of one kind joined."""
        joined: list[Delta] = []
        for delta in self._deltas:
            if joined and (both := _joined(joined[-1], delta)) is not None:
                joined[-1] = both
            else:
                joined.append(delta)
        self._deltas = []
        return joined


def _joined(one: Delta, two: Delta) -> Delta | None:
    """Two deltas as one, if they go on with the same text."""
    if isinstance(one, ToolCallArguments) and isinstance(two, ToolCallArguments):
        return ToolCallArguments(one.index, one.text + two.text) if one.index == two.index else None
    if isinstance(one, ContentDelta) and isinstance(two, ContentDelta):
        return ContentDelta(one.text + two.text)
    if isinstance(one, ReasoningDelta) and isinstance(two, ReasoningDelta):
        return ReasoningDelta(one.text + two.text)
    return None
