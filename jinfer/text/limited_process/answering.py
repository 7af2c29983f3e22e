"""The inside of a limited process: lines of JSON in, a line of JSON out for each.

The first line is {"limits": those of ProcessLimits, "setup": whatever the work needs}. The others are a
question each. One that takes more than `cpu_s` seconds of CPU ends the process by SIGPROF, more than
`num_bytes` of memory by SIGABRT, and one whose native code nests too deeply by SIGSEGV. The end of the input
ends it too.
"""

import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

WALL_LIMITS = 30  # of the CPU's: a process that gets so little of the CPU is stuck

Answer = Callable[[Any], Any]


def answer_lines(new_answer: Callable[[Any], Answer]) -> None:
    """Answers questions until there are no more, with the function that `new_answer` makes of the setup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group
    beginning = json.loads(sys.stdin.readline())
    limits = beginning["limits"]
    answer = new_answer(beginning["setup"])
    _bound_memory(limits["num_bytes"])
    threading.stack_size(limits["stack_bytes"])
    thread = threading.Thread(target=_answer_all, args=(answer, limits["cpu_s"]))
    thread.start()
    thread.join()


def _answer_all(answer: Answer, cpu_s: float) -> None:
    for line in sys.stdin:
        _set_timers(cpu_s)
        try:
            words = json.dumps(answer(json.loads(line)))
        except MemoryError:
            os.abort()  # as native code does
        _set_timers(0)
        print(words, flush=True)


def _bound_memory(num_bytes: int) -> None:
    """Bounds the address space, and lets an end write no core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = num_pages * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def _set_timers(cpu_s: float) -> None:
    """The default action of their signals ends the process, whatever it is doing. 0 stops them."""
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    signal.setitimer(signal.ITIMER_REAL, cpu_s * WALL_LIMITS)
