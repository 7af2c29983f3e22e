"""What must be true of a soak. Plain Python."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.soak.watch import Sample

GROWING = ("front", "engine")
MAX_GROWTH_PERCENT = 3.0  # of the last third's memory over the middle third's
MIN_SAMPLES = 12  # fewer tell nothing of memory, which grows with the first requests


def memory_figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """The resident memory of front and engine in MiB: the most in the middle and in the last third of the
    time, and how much more the last is; nothing of fewer than 12 samples. It is the most that counts, for a
    step takes and gives back tens of MiB."""
    if len(samples) < MIN_SAMPLES:
        return {}
    third = len(samples) // 3
    figures: dict[str, Any] = {}
    for name in GROWING:
        values = [sample.resident_mib[name] for sample in samples]
        middle, last = max(values[third : 2 * third]), max(values[-third:])
        growth_percent = round(100 * (last / middle - 1), 2)
        figures[name] = {"middle_mib": middle, "last_mib": last, "growth_percent": growth_percent}
    return figures


def memory_faults(figures: Mapping[str, Any]) -> Iterator[str]:
    """The processes that grew."""
    for name, figure in figures.items():
        if figure["growth_percent"] > MAX_GROWTH_PERCENT:
            yield (
                f"the memory of the {name} grew by {figure['growth_percent']}% from the middle third to the "
                f"last ({figure['middle_mib']} to {figure['last_mib']} MiB); up to {MAX_GROWTH_PERCENT}% is "
                "flat"
            )


def end_faults(end: Sample, failures: Sequence[str], status: int) -> Iterator[str]:
    """What a server that has had all its answers taken has left: `end` is when it should be idle, `failures`
    are the errors in its log, and `status` is that of its process."""
    if not end.is_idle:
        yield (
            f"the server is not idle after the last answer: {end.num_running} run, {end.num_waiting} wait, "
            f"and {100 * end.cache_usage:.2f}% of the pages are used"
        )
    yield from (
        f"{count} answers had the status {code}" for code, count in end.num_answers.items() if code >= 500
    )
    yield from (f"the server's log says: {line}" for line in failures)
    if status != 0:
        yield f"the server ended with status {status} after SIGTERM"
