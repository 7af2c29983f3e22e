"""Loads on a server, by the functions of `jinfer bench serve`."""

import statistics
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from benchmarks.serving.cases import ITL_P99, STRUCTURED, TTFT_ADDED, VS_OFFLINE, Case, Figures
from jinfer.bench.serve.figures import example_failures, load_figures
from jinfer.bench.serve.job import LoadJob
from jinfer.bench.serve.load import LoadError, LoadPlan
from jinfer.bench.serve.part import job_client, warm_up
from jinfer.bench.serve.processes import run_load
from jinfer.bench.session import TEMPERATURE

MAX_STREAMS_OF_A_PROCESS = 64  # chunks of more streams than these keep a client's process busy
NUM_WARM_UP_REQUESTS = 2
ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "number": {"type": "integer"},
        "kind": {"enum": ["first", "second"]},
    },
    "required": ["name", "number", "kind"],
    "additionalProperties": False,
}


async def measured(url: str, case: Case) -> Figures:
    """The figures of a case. Raises LoadError where a request failed."""
    return await MEASURES[case.id](url, case)


async def output_rate(url: str, case: Case) -> Figures:
    """Output tokens over the time from the first request to the end of the last answer."""
    rates = [(await load(url, case, run))["output_tokens_per_s"] for run in range(case.repeats)]
    return {"output_tokens_per_s": statistics.median(rates), "each": rates}


async def first_tokens(url: str, case: Case) -> Figures:
    """The median time to the first token, and to the last ones."""
    loads = [await load(url, case, run) for run in range(case.repeats)]
    return {
        name: statistics.median(figures[name] for figures in loads)
        for name in ("p50_ttft_ms", "p99_ttft_ms", "p99_lag_ms")
    }


async def gaps(url: str, case: Case) -> Figures:
    """The median and the p99 of the time between two chunks, of the load of which their ratio is the median.
    Raises LoadError where chunks come so fast that the client reads several at once."""
    loads = [await load(url, case, run) for run in range(case.repeats)]
    if any(figures["p50_itl_ms"] == 0 for figures in loads):
        raise LoadError(f"{case.id}: half of the chunks came with another one; measure a larger model")
    loads.sort(key=lambda figures: figures["p99_itl_ms"] / figures["p50_itl_ms"])
    chosen = loads[(len(loads) - 1) // 2]
    names = ("p50_itl_ms", "p99_itl_ms", "tokens_per_chunk", "p99_lag_ms")
    return {name: chosen[name] for name in names}


async def structured(url: str, case: Case) -> Figures:
    """Output rates of free answers and of such as a schema allows, in turns. No answer can end early: the
    schema wants an array with more items than the answer has tokens."""
    schema = {"type": "array", "items": ITEM, "minItems": case.output_len}
    all_fields: Mapping[str, dict[str, Any]] = {
        "free_tokens_per_s": {},
        "structured_tokens_per_s": {"structured_outputs": {"json": schema}},
    }
    rates: dict[str, list[float]] = {name: [] for name in all_fields}
    for run in range(case.repeats):
        for place, (name, fields) in enumerate(all_fields.items()):
            figures = await load(url, case, len(all_fields) * run + place, fields)
            rates[name].append(figures["output_tokens_per_s"])
    return {**{name: statistics.median(each) for name, each in rates.items()}, "each": rates}


async def load(url: str, case: Case, run: int, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The figures of a load after a few requests that warm up. Raises LoadError where a request failed, or
    ended early."""
    job = LoadJob(
        url=url,
        endpoint="completions",
        workload=case.workload,
        workload_options=case.workload_options(run),
        plan=LoadPlan(
            rate_per_s=case.rate_per_s,
            concurrency=case.num_requests if case.rate_per_s is None else None,
            num_conversations=case.num_requests,
            seed=case.seed(run),
        ),
        fields={"temperature": TEMPERATURE, **(fields or {})},
    )
    async with job_client(job) as client:
        await warm_up(job, client, NUM_WARM_UP_REQUESTS)
    num_processes = 1 if (job.plan.concurrency or 0) <= MAX_STREAMS_OF_A_PROCESS else 2
    outcome = await run_load(job, num_processes, lambda elapsed_s, tally: None)
    figures = load_figures(outcome.records, {}, outcome.lags_s)
    wanted = case.num_requests * case.output_len
    if figures["num_output_tokens"] != wanted:
        raise LoadError(
            f"{case.id}: {figures['num_output_tokens']} of {wanted} tokens came, so that times mean nothing; "
            f"failed: {example_failures(outcome.records) or 'none'}"
        )
    return figures


MEASURES: Mapping[str, Callable[[str, Case], Awaitable[Figures]]] = {
    VS_OFFLINE: output_rate,
    TTFT_ADDED: first_tokens,
    ITL_P99: gaps,
    STRUCTURED: structured,
}
