"""The bounds of a limited process, and what its end says about them."""

import enum
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessLimits:
    """The bounds of one question's work."""

    cpu_s: float
    num_bytes: int
    """Memory beyond what the process has before its first question."""
    stack_bytes: int


class Excess(enum.Enum):
    """The bound that a process ran into."""

    TIME = "time"
    MEMORY = "memory"
    DEPTH = "depth"
    OTHER = "other"


_SIGNALS: dict[int, Excess] = {
    signal.SIGPROF: Excess.TIME,
    signal.SIGALRM: Excess.TIME,
    signal.SIGABRT: Excess.MEMORY,
    signal.SIGKILL: Excess.MEMORY,
    signal.SIGSEGV: Excess.DEPTH,
    signal.SIGBUS: Excess.DEPTH,
}


def excess_of(status: int) -> Excess:
    """The bound that a process of this exit status ran into; a negative one is a signal."""
    return _SIGNALS.get(-status, Excess.OTHER)
