"""What a trace of `jinfer bench ... --profile DIR` shows.

    python -m benchmarks.trace DIR [--top 20]

Prints how long the device was busy and idle between the first and the last kernel, what the host spent in
each station of a step, and the kernels that took longest. The profiler holds up the steps in which it begins,
and so the first five are left out of what is said of the device.
"""

import argparse
import gzip
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinfer.bench.profile import STATIONS, STEP

LONG_GAP_US = 10.0
STEPS_LEFT_OUT = 5  # of the device's time
NAME_WIDTH = 90


class Event(NamedTuple):
    """An event with its begin and duration in microseconds."""

    name: str
    start_us: float
    duration_us: float
    arguments: dict[str, Any]

    @property
    def end_us(self) -> float:
        return self.start_us + self.duration_us


@dataclass(frozen=True)
class Trace:
    """Kernels and copies by device, and the host's steps and stations."""

    kernels: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    copies: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    host: list[Event] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        return sum(event.name == STEP for event in self.host)

    def steady(self, events: Sequence[Event]) -> list[Event]:
        """Returns the events that begin after the first STEPS_LEFT_OUT steps of the host; all events if there
        are no more steps."""
        begins = sorted(event.start_us for event in self.host if event.name == STEP)
        return [
            event
            for event in events
            if len(begins) <= STEPS_LEFT_OUT or event.start_us >= begins[STEPS_LEFT_OUT]
        ]

    @property
    def stations_us(self) -> dict[str, float]:
        """Returns the microseconds in each station, over all steps."""
        total: Counter[str] = Counter()
        for event in self.host:
            if event.name != STEP:
                total[event.name] += event.duration_us
        return dict(total)


@dataclass(frozen=True)
class Occupation:
    """The busy time of a device between its first and its last kernel; `gaps_us` are the times in which no
    kernel ran."""

    window_us: float
    busy_us: float
    gaps_us: tuple[float, ...]

    @property
    def idle_percent(self) -> float:
        return 100 * (1 - self.busy_us / self.window_us)


def main(arguments: Sequence[str]) -> int:
    """Prints a summary of the newest trace under a directory."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.trace",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="kernels to list; default 20")
    options = parser.parse_args(arguments)
    try:
        trace = read_trace(options.directory)
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    print_host(trace)
    for device in trace.kernels:
        print_device(device, trace, options.top)
    if not trace.kernels:
        print("there are no kernels in this trace: it was not taken on a GPU")
    return 0


def read_trace(directory: Path) -> Trace:
    """The newest trace under a directory. Raises FileNotFoundError where there is none."""
    files = sorted(directory.rglob("*.trace.json.gz"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise FileNotFoundError(
            f"there is no *.trace.json.gz under {directory}: is it what --profile was given?"
        )
    with gzip.open(files[-1], "rt", encoding="utf-8") as stream:
        return sort_events(json.load(stream)["traceEvents"])


def sort_events(events: Iterable[dict[str, Any]]) -> Trace:
    """Sorts events into kernels and copies of each device and stations of the host. Only events on a GPU's
    streams are kernels: other lines of a device repeat them by program and operation."""
    events = list(events)
    named = [event for event in events if event.get("ph") == "M" and "name" in event.get("args", {})]
    processes = {event["pid"]: event["args"]["name"] for event in named if event["name"] == "process_name"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named if e["name"] == "thread_name"}
    trace = Trace()
    for raw in events:
        if raw.get("ph") != "X":
            continue
        event = Event(raw["name"], raw["ts"], raw.get("dur", 0.0), raw.get("args", {}))
        device = processes.get(raw["pid"], "")
        if "GPU" in device:
            if "stream" in threads.get((raw["pid"], raw["tid"]), "").lower():
                is_copy = event.name.lower().startswith(("memcpy", "memset"))
                (trace.copies if is_copy else trace.kernels)[device].append(event)
        elif event.name in (STEP, *STATIONS):
            trace.host.append(event)
    return trace


def occupation(kernels: Sequence[Event]) -> Occupation:
    """Returns the union of the kernels' times, over all streams, and the gaps between them."""
    ordered = sorted(kernels, key=lambda event: event.start_us)
    first, end, busy, gaps = ordered[0].start_us, ordered[0].start_us, 0.0, []
    for event in ordered:
        if event.start_us > end:
            gaps.append(event.start_us - end)
        busy += max(0.0, event.end_us - max(end, event.start_us))
        end = max(end, event.end_us)
    return Occupation(end - first, busy, tuple(gaps))


def print_host(trace: Trace) -> None:
    """Prints the time of a step, and of each station in it. Stations are nested: make_batch is a part of
    dispatch."""
    steps = [event for event in trace.host if event.name == STEP]
    if not steps:
        print("there are no engine steps in this trace")
        return
    print(
        f"{len(steps)} engine steps of {sum(step.duration_us for step in steps) / len(steps):.0f} us on the "
        "host"
    )
    for name, total in sorted(trace.stations_us.items(), key=lambda item: -item[1]):
        print(f"  {name:<12} {total / len(steps):10.1f} us a step")


def print_device(device: str, trace: Trace, top: int) -> None:
    """Prints busy and idle time, and the kernels that took longest."""
    kernels, copies = trace.steady(trace.kernels[device]), trace.steady(trace.copies[device])
    left_out = STEPS_LEFT_OUT if trace.num_steps > STEPS_LEFT_OUT else 0
    found, num_steps = occupation(kernels), max(1, trace.num_steps - left_out)
    long = [gap for gap in found.gaps_us if gap >= LONG_GAP_US]
    print(f"{device}: {len(kernels)} kernels and {len(copies)} copies in {found.window_us / 1e3:.2f} ms")
    print(
        f"  busy {100 - found.idle_percent:.1f}%, idle {found.idle_percent:.1f}%: "
        f"{sum(found.gaps_us) / 1e3:.2f} ms,"
    )
    print(
        f"  of which {len(long)} gaps of {LONG_GAP_US:.0f} us or more take "
        f"{100 * sum(long) / found.window_us:.1f}%; "
        f"the longest takes {max(found.gaps_us, default=0):.0f} us"
    )
    totals: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in kernels:
        totals[event.name] += event.duration_us
        counts[event.name] += 1
    print(f"  {'us a step':>10} {'calls':>7} {'us each':>9} {'share':>6}  kernel")
    for name, total in totals.most_common(top):
        share = 100 * total / found.busy_us
        print(
            f"  {total / num_steps:10.1f} {counts[name] / num_steps:7.1f} {total / counts[name]:9.2f} "
            f"{share:5.1f}%  {name[:NAME_WIDTH]}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
