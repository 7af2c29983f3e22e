"""A line of figures a second while an engine runs, on stderr."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from jinfer.engine.engine import Engine
from jinfer.requests.request import SequenceOutput

INTERVAL_S = 1.0


class Monitor:
    """Counts tokens and speaks once a second. Between two lines it costs a step less than ten
    microseconds."""

    def __init__(
        self,
        engine: Engine,
        stream: TextIO | None = None,
        *,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine, self._stream, self._interval_s, self._clock = (
            engine,
            stream or sys.stderr,
            interval_s,
            clock,
        )
        self.begin("")

    def begin(self, label: str) -> None:
        """Starts the clock of the next measurement."""
        self._label = label
        self._began = self._last = self._clock()
        self._num_tokens = 0

    def __call__(self, outputs: Sequence[SequenceOutput]) -> None:
        """Shows the figures of a step, after each."""
        self._num_tokens += sum([output.token_id is not None for output in outputs])
        now = self._clock()
        if now - self._last >= self._interval_s:
            self._speak(now)

    def _speak(self, now: float) -> None:
        figures = self._engine.stats()
        rate = self._num_tokens / (now - self._last)
        print(
            f"{self._label} {now - self._began:6.1f} s  running {figures.num_running}  waiting "
            f"{figures.num_waiting}  pages {figures.num_used_pages} used {figures.num_cached_pages} cached "
            f"{figures.num_free_pages} free  {rate:,.0f} tokens/s",
            file=self._stream,
            flush=True,
        )
        self._last, self._num_tokens = now, 0
