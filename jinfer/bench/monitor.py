"""A line of figures a second while an engine runs, on stderr."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from jinfer.engine import Engine, SequenceUpdate

INTERVAL_S = 1.0


@dataclass(frozen=True)
class Figures:
    """What an engine holds at this moment. Pages in use and in the prefix cache are other pages than the free ones."""

    num_running: int
    num_waiting: int
    num_used_pages: int
    num_cached_pages: int
    num_free_pages: int


def figures_of(engine: Any) -> Figures:
    """From `Engine.stats()`, or from its scheduler where it has none."""
    stats = getattr(engine, "stats", None)
    if stats is not None:
        now = stats()
        return Figures(**{name: getattr(now, name) for name in Figures.__dataclass_fields__})
    scheduler = engine._scheduler
    pool = scheduler.page_pool
    return Figures(scheduler.num_running, scheduler.num_waiting, pool.num_used, 0, pool.num_free)


class Monitor:
    """Counts tokens and speaks once a second. Between two lines it costs a step less than ten microseconds."""

    def __init__(
        self, engine: Engine, stream: TextIO | None = None, *, interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._engine, self._stream, self._interval_s, self._clock = engine, stream or sys.stderr, interval_s, clock
        self.begin("")

    def begin(self, label: str) -> None:
        """Starts the clock of what is measured next."""
        self._label = label
        self._began = self._last = self._clock()
        self._num_tokens = 0

    def __call__(self, updates: Sequence[SequenceUpdate]) -> None:
        """To be called after every step."""
        self._num_tokens += sum([update.token_id is not None for update in updates])
        now = self._clock()
        if now - self._last >= self._interval_s:
            self._speak(now)

    def _speak(self, now: float) -> None:
        figures = figures_of(self._engine)
        rate = self._num_tokens / (now - self._last)
        print(
            f"{self._label} {now - self._began:6.1f} s  running {figures.num_running}  waiting {figures.num_waiting}  "
            f"pages {figures.num_used_pages} used {figures.num_cached_pages} cached {figures.num_free_pages} free  "
            f"{rate:,.0f} tokens/s",
            file=self._stream, flush=True,
        )  # fmt: skip
        self._last, self._num_tokens = now, 0
