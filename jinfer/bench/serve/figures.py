"""Figures of a load: rates, percentiles, goodput, failures. Plain Python.

    TTFT       from sending a request to its first chunk with a token
    ITL        between two such chunks, over the gaps of all requests
    E2E        from sending a request to the end of the answer
    TPOT       (E2E - TTFT) / (output tokens - 1)
    lateness   from when a request should have been sent to when it was
    lag        from when something happened in the client to when it saw it, at regular moments
    goodput    the rate of requests that meet every limit

Times and tokens are those of answers that came whole; lateness is that of all requests that were sent.
"""

import collections
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinfer.bench.percentiles import percentiles
from jinfer.bench.serve.records import RequestRecord

PERCENTS = (50, 90, 99)
TIMES = ("ttft", "itl", "tpot", "e2e", "lateness", "lag")
LIMITED: Mapping[str, Callable[[RequestRecord], float | None]] = {
    "ttft": lambda record: record.ttft_s,
    "itl": lambda record: max(record.itl_s, default=0.0),  # the longest
    "tpot": lambda record: 0.0 if record.num_output_tokens == 1 else record.tpot_s,
    "e2e": lambda record: record.e2e_s,
}


def load_figures(
    records: Sequence[RequestRecord], limits_ms: Mapping[str, float], lags_s: Sequence[float] = ()
) -> dict[str, Any]:
    """All figures by name, each with its unit. `limits_ms` are goodput's, by the names in LIMITED; `lags_s`
    those of the client."""
    ok = [record for record in records if record.is_ok]
    seconds = seconds_of(records)
    return {
        **_counts(records),
        "seconds": round(seconds, 3),
        "requests_per_s": _rate(len(ok), seconds),
        **_tokens(ok, seconds),
        **_times("ttft", [record.ttft_s for record in ok]),
        **_times("itl", [gap for record in ok for gap in record.itl_s]),
        **_times("tpot", [record.tpot_s for record in ok]),
        **_times("e2e", [record.e2e_s for record in ok]),
        **_times("lateness", [record.lateness_s for record in records]),
        **_times("lag", lags_s),
        **_goodput(ok, len(records), seconds, limits_ms),
    }


def seconds_of(records: Sequence[RequestRecord]) -> float:
    """Time from the first request to the end of the last."""
    sent = [record.sent_s for record in records if record.sent_s is not None]
    ended = [record.ended_s for record in records if record.ended_s is not None]
    return max(ended) - min(sent) if sent and ended else 0.0


def meets(record: RequestRecord, limits_ms: Mapping[str, float]) -> bool:
    """True for an answer that came whole and within every limit. One token has no TPOT, and meets it."""
    times = {name: LIMITED[name](record) for name in limits_ms}
    return record.is_ok and all(
        time_s is not None and time_s * 1e3 <= limits_ms[name] for name, time_s in times.items()
    )


def example_failures(records: Sequence[RequestRecord]) -> dict[str, str]:
    """The first message of each kind of failure."""
    examples: dict[str, str] = {}
    for record in records:
        if record.failure is not None:
            examples.setdefault(record.failure, record.message or "")
    return examples


def _counts(records: Sequence[RequestRecord]) -> dict[str, Any]:
    failures = collections.Counter(record.failure for record in records if record.failure is not None)
    ok = [record for record in records if record.is_ok]
    return {
        "num_requests": len(records),
        "num_ok": len(ok),
        "num_failed": failures.total(),
        "failures": dict(sorted(failures.items(), key=lambda item: -item[1])),
        "num_without_usage": sum(record.num_output_tokens is None for record in ok),
        "num_without_tokens": sum(not record.chunk_times_s for record in ok),
    }


def _tokens(ok: Sequence[RequestRecord], seconds: float) -> dict[str, Any]:
    num_input = sum(record.num_prompt_tokens or 0 for record in ok)
    num_output = sum(record.num_output_tokens or 0 for record in ok)
    num_chunks = sum(len(record.chunk_times_s) for record in ok)
    return {
        "num_input_tokens": num_input,
        "num_cached_tokens": sum(record.num_cached_tokens or 0 for record in ok),
        "num_output_tokens": num_output,
        "input_tokens_per_s": _rate(num_input, seconds),
        "output_tokens_per_s": _rate(num_output, seconds),
        "tokens_per_chunk": round(num_output / num_chunks, 3) if num_chunks else None,
    }


def _times(name: str, times_s: Sequence[float | None]) -> dict[str, float]:
    known = [time_s for time_s in times_s if time_s is not None]
    if not known:
        return {}
    mean = {f"mean_{name}_ms": round(statistics.fmean(known) * 1e3, 3)}
    return {**percentiles(name, known, PERCENTS), **mean}


def _goodput(
    ok: Sequence[RequestRecord], num_requests: int, seconds: float, limits_ms: Mapping[str, float]
) -> dict[str, Any]:
    if not limits_ms:
        return {}
    num_good = sum(meets(record, limits_ms) for record in ok)
    return {
        "goodput_limits_ms": dict(limits_ms),
        "num_good": num_good,
        "goodput_per_s": _rate(num_good, seconds),
        "goodput_percent": round(100 * num_good / num_requests, 2) if num_requests else 0.0,
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0
