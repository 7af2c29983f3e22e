"""The cases: what each asks, and the line that its figures make. Plain Python."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from benchmarks.record import Line
from jinfer.bench.serve.conversations import WorkloadOptions, find_conversations
from jinfer.bench.workloads import Lengths

VS_OFFLINE, TTFT_ADDED, ITL_P99 = "serve-vs-offline", "serve-ttft-added", "serve-itl-p99"
STRUCTURED, PENALTIES = "serve-structured", "serve-penalties"
VOCAB_SIZE = 256  # of random token ids; every model has so many
SEEDS_OF_A_CASE = 1000
NOISE_PERCENT = 5  # by which a server may seem to cost less than nothing

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """`num_requests` is the number of streams of serve-itl-p99, and of rows of serve-penalties. Requests come
    at `rate_per_s`, or, where that is None, all at once."""

    id: str
    num_requests: int
    prompt_len: int
    output_len: int
    repeats: int = 3
    rate_per_s: float | None = None

    @property
    def workload(self) -> str:
        """The name under which `jinfer bench serve` knows the requests."""
        return f"random-{self.prompt_len}x{self.output_len}"

    @property
    def lengths(self) -> tuple[Lengths, ...]:
        return (Lengths(self.prompt_len, self.output_len),) * self.num_requests

    def seed(self, run: int) -> int:
        """The seed of a run. No two runs of any cases share one: none finds its prompts in a cache."""
        return SEEDS_OF_A_CASE * list(CASES).index(self.id) + run

    def workload_options(self, run: int) -> WorkloadOptions:
        return WorkloadOptions(self.seed(run), VOCAB_SIZE, self.output_len, ignore_eos=True)

    def prompts(self, run: int) -> list[Sequence[int]]:
        """The prompts that a load on a server has in its run of this number."""
        get = find_conversations(self.workload, self.workload_options(run)).get
        return [cast(Sequence[int], get(number).turns[0]) for number in range(self.num_requests)]


CASES: Mapping[str, Case] = {
    case.id: case
    for case in (
        Case(VS_OFFLINE, 1000, 1024, 128),
        Case(TTFT_ADDED, 100, 1024, 32, repeats=1, rate_per_s=1.0),
        Case(ITL_P99, 64, 128, 512),
        Case(STRUCTURED, 200, 128, 128),
        Case(PENALTIES, 256, 128, 128),
    )
}
OFFLINE, SERVED = (VS_OFFLINE, TTFT_ADDED, PENALTIES), (VS_OFFLINE, TTFT_ADDED, ITL_P99, STRUCTURED)


def sized(case: Case, **sizes: Any) -> Case:
    """The case with other sizes, of which None changes nothing."""
    return dataclasses.replace(case, **{name: size for name, size in sizes.items() if size is not None})


def result(case_id: str, offline: Figures, served: Figures) -> Line:
    """The first part of a case's line, of the figures of the engine alone and of the server."""
    value, unit, limit, percent = RESULTS[case_id](offline, served)
    return {
        "id": case_id,
        "value": round(value, 3),
        "unit": unit,
        "limit": limit,
        "percent_of_limit": round(100.0 if 100 < percent <= 100 + NOISE_PERCENT else percent, 1),
    }


def _percent(value: float, of: float) -> tuple[float, str, float, float]:
    return 100 * value / of, "percent", 100, 100 * value / of


def _ratio(value: float, of: float) -> tuple[float, str, float, float]:
    return value / of, "ratio", 1, 100 * of / value


def _added_ms(value: float, to: float) -> tuple[float, str, float, float]:
    return value - to, "ms", 0, 100 * to / value


RESULTS: Mapping[str, Callable[[Figures, Figures], tuple[float, str, float, float]]] = {
    VS_OFFLINE: lambda offline, served: _percent(
        served["output_tokens_per_s"], offline["output_tokens_per_s"]
    ),
    TTFT_ADDED: lambda offline, served: _added_ms(served["p50_ttft_ms"], offline["p50_ttft_ms"]),
    ITL_P99: lambda offline, served: _ratio(served["p99_itl_ms"], served["p50_itl_ms"]),
    STRUCTURED: lambda offline, served: _percent(
        served["structured_tokens_per_s"], served["free_tokens_per_s"]
    ),
    PENALTIES: lambda offline, served: _ratio(offline["penalties_step_ms"], offline["plain_step_ms"]),
}
