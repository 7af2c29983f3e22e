"""Percentiles of times, by nearest rank. Plain Python."""

import math
from collections.abc import Sequence


def percentiles(name: str, times_s: Sequence[float], percents: Sequence[int] = (50, 99)) -> dict[str, float]:
    """{"p50_<name>_ms": ..., "p99_<name>_ms": ...} by nearest rank; nothing of nothing."""
    ordered = sorted(times_s)
    if not ordered:
        return {}
    return {
        f"p{percent}_{name}_ms": round(ordered[math.ceil(percent / 100 * len(ordered)) - 1] * 1e3, 3)
        for percent in percents
    }
