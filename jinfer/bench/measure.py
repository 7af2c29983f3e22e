"""A workload on a session becomes a result. Times are medians over repeats; every measurement warms up
first."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinfer.bench.arrivals import Arrival
from jinfer.bench.limits import MachineLimits
from jinfer.bench.percentiles import percentiles
from jinfer.bench.results import Result
from jinfer.bench.roofline import ModelWork, decode_step_s, least_seconds, shared_prefix_seconds, weights_s
from jinfer.bench.session import Session
from jinfer.bench.workloads import (
    Lengths,
    Measure,
    Workload,
    shared_prompts,
)
from jinfer.config import EngineLimits
from jinfer.errors import ConfigError, RequestError

WARM_UP_REQUESTS, WARM_UP_TOKENS = 32, 16
DEFAULT_POLICY = "mixed"


@dataclass(frozen=True)
class Bench:
    """The needs of a measurement: the engine, what its model costs, and what the machine reaches."""

    session: Session
    work: ModelWork
    machine: MachineLimits
    prefix: str
    repeats: int = 3
    policy: str = DEFAULT_POLICY

    def least_s(self, requests: Sequence[Lengths]) -> float:
        """The least seconds of a workload on this machine; see roofline."""
        return least_seconds(self.work, self.machine, requests, self.session.limits.max_num_seqs)

    def result_id(self, suffix: str) -> str:
        return f"{self.prefix}-{suffix}"


def measure(bench: Bench, workload: Workload, arrivals: Sequence[Arrival] = ()) -> Result:
    """Runs a workload. `arrivals` are those of a workload that has some. Raises RequestError where it does
    not fit."""
    check(bench.session.limits, workload, arrivals)
    if workload.measure is Measure.ARRIVALS:
        return measure_arrivals(bench, workload, arrivals)
    return MEASURES[workload.measure](bench, workload)


def check(limits: EngineLimits, workload: Workload, arrivals: Sequence[Arrival] = ()) -> None:
    """Raises before anything runs: RequestError for a request that is too long, ConfigError for rows that are
    few and for arrivals that have no time between tokens."""
    requests = workload.requests or [arrival.lengths for arrival in arrivals]
    longest = max(requests, key=sum, default=Lengths(0, 0))
    capacity = min(limits.max_model_len, (limits.num_pages - 1) * limits.page_size)
    if sum(longest) > capacity:
        raise RequestError(
            f"workload {workload.name!r} has a request of {longest.prompt} tokens in and {longest.output} "
            "out, and the "
            f"context holds {capacity}; choose another workload, or raise max_model_len or num_pages"
        )
    rows, most = len(workload.requests), limits.max_num_seqs
    if workload.measure is Measure.TPOT and rows > most:
        raise ConfigError(
            f"workload {workload.name!r} runs {rows} requests together, and max_num_seqs={most}; raise it"
        )
    if workload.measure is Measure.ARRIVALS and all(arrival.lengths.output < 2 for arrival in arrivals):
        raise ConfigError(f"workload {workload.name!r}: no request has two output tokens; raise --duration")


def measure_tpot(bench: Bench, workload: Workload) -> Result:
    """(time with m + 1 output tokens - time with 1) / m, for the whole batch."""
    full = workload.requests
    first = tuple(Lengths(each.prompt, 1) for each in full)
    _warm_up(bench.session, full)
    pairs = [(bench.session.run(first), bench.session.run(full)) for _ in range(bench.repeats)]
    tpots = [(total - alone) / (full[0].output - 1) for alone, total in pairs]
    tpot = statistics.median(tpots)
    return Result(
        bench.result_id(workload.name),
        tpot * 1e3,
        "ms",
        decode_step_s(bench.work, bench.machine, full) * 1e3,
        details={
            "each_ms": [round(each * 1e3, 3) for each in tpots],
            "output_tokens_per_s": round(len(full) / tpot, 1),
            "first_tokens_s": round(statistics.median(alone for alone, _ in pairs), 4),
        },
    )


def measure_ttft(bench: Bench, workload: Workload) -> Result:
    """The time of one request for one token."""
    times = _repeat(bench, workload)
    return Result(
        bench.result_id(workload.name),
        statistics.median(times) * 1e3,
        "ms",
        bench.least_s(workload.requests) * 1e3,
        details={"each_ms": [round(each * 1e3, 3) for each in times]},
    )


def measure_output_rate(bench: Bench, workload: Workload) -> Result:
    """All output tokens over the time from handing in all requests to their last token."""
    return _rate(bench, workload, workload.num_output_tokens)


def measure_input_rate(bench: Bench, workload: Workload) -> Result:
    """All prompt tokens over the time until each request has its first and only token."""
    return _rate(bench, workload, workload.num_prompt_tokens)


def _rate(bench: Bench, workload: Workload, num_tokens: int) -> Result:
    times = _repeat(bench, workload)
    seconds = statistics.median(times)
    return Result(
        bench.result_id(workload.name),
        num_tokens / seconds,
        "tokens/s",
        num_tokens / bench.least_s(workload.requests),
        more_is_better=True,
        details={
            "each_s": [round(each, 3) for each in times],
            "num_prompt_tokens": workload.num_prompt_tokens,
            "num_output_tokens": workload.num_output_tokens,
        },
    )


def measure_sharing(bench: Bench, workload: Workload) -> Result:
    """The factor by which the last of the first tokens comes sooner: prompts that share nothing over prompts
    that share.

    The limit is the ratio of a machine that computes the prefix once at its matmul rate.
    """
    _warm_up(bench.session, workload.requests)
    alone_s, alone_mean_s = _sharing_times(bench, workload, is_shared=False)
    shared_s, shared_mean_s = _sharing_times(bench, workload, is_shared=True)
    own_tokens = workload.requests[0].prompt - workload.shared_tokens
    least_s = shared_prefix_seconds(
        bench.work, bench.machine, workload.shared_tokens, own_tokens, len(workload.requests)
    )
    return Result(
        bench.result_id(workload.name),
        alone_s / shared_s,
        "ratio",
        alone_s / least_s,
        more_is_better=True,
        details={
            "last_alone_ms": round(alone_s * 1e3, 2),
            "last_shared_ms": round(shared_s * 1e3, 2),
            "mean_alone_ms": round(alone_mean_s * 1e3, 2),
            "mean_shared_ms": round(shared_mean_s * 1e3, 2),
            "mean_ratio": round(alone_mean_s / shared_mean_s, 2),
        },
    )


def _sharing_times(bench: Bench, workload: Workload, *, is_shared: bool) -> tuple[float, float]:
    """Seconds to the last first token and to the first token on average. Every repeat has a prefix of its
    own."""
    session, last, mean = bench.session, [], []
    for _ in range(bench.repeats):
        prompts = shared_prompts(workload, session.vocab_size, session.rng, is_shared=is_shared)
        times = session.run_prompts(prompts, workload.requests)[1]
        last.append(max(each.first_token_s for each in times))
        mean.append(statistics.fmean(each.first_token_s for each in times))
    return statistics.median(last), statistics.median(mean)


def measure_arrivals(bench: Bench, workload: Workload, arrivals: Sequence[Arrival]) -> Result:
    """The 99th percentile over requests of their TPOT, beside the time in which a step reads the weights."""
    _warm_up(bench.session, [arrival.lengths for arrival in arrivals])
    began = bench.session.clock()
    times = bench.session.replay(arrivals)
    seconds = bench.session.clock() - began
    tpots = [each.per_output_token_s for each in times]
    figures = {
        **percentiles("tpot", [tpot for tpot in tpots if tpot is not None]),
        **percentiles("ttft", [each.first_token_s for each in times]),
    }
    policy = "" if bench.policy == DEFAULT_POLICY else f"-{bench.policy.replace('_', '-')}"
    return Result(
        bench.result_id(f"{workload.name}-p99-tpot{policy}"),
        figures["p99_tpot_ms"],
        "ms",
        weights_s(bench.work, bench.machine) * 1e3,
        details={
            **figures,
            "policy": bench.policy,
            "num_requests": len(times),
            "seconds": round(seconds, 2),
            "output_tokens_per_s": round(sum(each.num_output_tokens for each in times) / seconds, 1),
        },
    )


def _repeat(bench: Bench, workload: Workload) -> list[float]:
    _warm_up(bench.session, workload.requests)
    return [bench.session.run(workload.requests) for _ in range(bench.repeats)]


def _warm_up(session: Session, requests: Sequence[Lengths]) -> None:
    """The first requests, and a few tokens of each: shapes are compiled and run already, memory and caches
    are not."""
    session.run(
        [Lengths(each.prompt, min(each.output, WARM_UP_TOKENS)) for each in requests[:WARM_UP_REQUESTS]]
    )


MEASURES: dict[Measure, Callable[[Bench, Workload], Any]] = {
    Measure.TPOT: measure_tpot,
    Measure.TTFT: measure_ttft,
    Measure.OUTPUT_RATE: measure_output_rate,
    Measure.INPUT_RATE: measure_input_rate,
    Measure.SHARING: measure_sharing,
}
