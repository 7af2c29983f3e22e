"""The engine alone, in a process of its own: reads what to measure as JSON from stdin, and prints a line for
the circumstances and one for each case."""

import itertools
import json
import random
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.serving.cases import PENALTIES, TTFT_ADDED, VOCAB_SIZE, VS_OFFLINE, Case, Figures
from jinfer.bench.arrivals import Arrival, poisson_times
from jinfer.bench.circumstances import circumstances
from jinfer.bench.opening import Source
from jinfer.bench.percentiles import percentiles
from jinfer.bench.session import Session
from jinfer.bench.workloads import Lengths
from jinfer.errors import ConfigError, JinferError
from jinfer.startup import EngineParts
from pallas_kernels.core.device import target_device

WARM_UP_TOKENS = 8
ALL_PENALTIES = {
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {17: -5.0, 42: 2.0},
}


def main(request: Mapping[str, Any]) -> int:
    """Returns the exit status. An error of jinfer's is printed without a traceback."""
    config = request["config"]
    source = Source(request["model"], None if config is None else Path(config))
    cases = [Case(**case) for case in request["cases"]]
    try:
        print(
            json.dumps({"directory": target_device().file_name, **circumstances(request["command"])}),
            flush=True,
        )
        if cases:
            with source.start({**request["options"], "progress": False}) as parts:
                for case in cases:
                    print(json.dumps({"case": case.id, **measured(parts, case)}), flush=True)
    except JinferError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def measured(parts: EngineParts, case: Case) -> Figures:
    """The figures of a case. Raises RequestError where its requests do not fit, and ConfigError where
    its rows do not."""
    return MEASURES[case.id](parts, case)


def output_rate(parts: EngineParts, case: Case) -> Figures:
    """Output tokens over the time from handing in all requests to their last token."""
    session = _session(parts)
    session.run([Lengths(case.prompt_len, WARM_UP_TOKENS)] * min(32, case.num_requests))
    seconds = [session.run_prompts(case.prompts(run), case.lengths)[0] for run in range(case.repeats)]
    rates = [case.num_requests * case.output_len / each for each in seconds]
    return {"output_tokens_per_s": statistics.median(rates), "each": [round(rate, 1) for rate in rates]}


def first_tokens(parts: EngineParts, case: Case) -> Figures:
    """The time to the first token of requests that come when the server's do."""
    assert case.rate_per_s is not None
    session, times = _session(parts), []
    session.run([Lengths(case.prompt_len, WARM_UP_TOKENS)] * 4)
    for run in range(case.repeats):
        due = poisson_times(case.rate_per_s, random.Random(case.seed(run)))
        arrivals = [Arrival(time_s, lengths) for time_s, lengths in zip(due, case.lengths, strict=False)]
        times += [each.first_token_s for each in session.replay(arrivals, case.prompts(run))]
    return percentiles("ttft", times)


def decode_steps(parts: EngineParts, case: Case) -> Figures:
    """The time of a step in which all rows decode, without penalties and with all of them, in turns."""
    rows = parts.limits.max_num_seqs
    if case.num_requests > rows:
        raise ConfigError(
            f"{case.id} runs {case.num_requests} rows together, and max_num_seqs={rows}; raise it with "
            "--set max_num_seqs=N, or ask for fewer with --num-requests"
        )
    fields: Mapping[str, dict[str, Any]] = {"plain_step_ms": {}, "penalties_step_ms": ALL_PENALTIES}
    for sampling in fields.values():  # compiled with the first request that needs it
        session = _session(parts, sampling=sampling)
        session.run([Lengths(case.prompt_len, WARM_UP_TOKENS)] * case.num_requests)
    turns = [
        {name: _step_ms(parts, case, sampling) for name, sampling in fields.items()}
        for _ in range(case.repeats)
    ]
    each = {name: [turn[name] for turn in turns] for name in fields}
    return {**{name: statistics.median(values) for name, values in each.items()}, "each": each}


def _step_ms(parts: EngineParts, case: Case, sampling: Mapping[str, Any]) -> float:
    """The median time between two steps that each gave every row a token."""
    times: list[float | None] = []
    session = _session(parts, sampling=sampling)
    session.after_step = lambda outputs: times.append(
        session.clock() if len(outputs) == case.num_requests else None
    )
    session.run(case.lengths)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times) if earlier and later]
    if not gaps:
        raise ConfigError(
            f"{case.id}: no two steps gave all {case.num_requests} rows a token: the first rows ended before "
            f"the last began; raise --output-len {case.output_len}"
        )
    return round(statistics.median(gaps) * 1e3, 4)


def _session(parts: EngineParts, **fields: Any) -> Session:
    return Session(parts.engine, parts.limits, VOCAB_SIZE, **fields)


MEASURES: Mapping[str, Callable[[EngineParts, Case], Figures]] = {
    VS_OFFLINE: output_rate,
    TTFT_ADDED: first_tokens,
    PENALTIES: decode_steps,
}

if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
