"""The workloads, for any function from prompts and output lengths to seconds."""

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jinfer.bench.workloads import Lengths, Measure, Workload, find_workload, random_prompts
from jinfer.errors import ConfigError

Generate = Callable[[list[tuple[int, ...]], list[int]], float]
"""(prompts, output tokens of each) -> seconds until all outputs are there."""

COMPARABLE = (Measure.TPOT, Measure.TTFT, Measure.OUTPUT_RATE, Measure.INPUT_RATE)
WARM_UP_REQUESTS, WARM_UP_TOKENS = 32, 16


class Figure(NamedTuple):
    value: float
    unit: str


def comparable_workload(name: str, output_len: int) -> Workload:
    """The workload of that name. Raises ConfigError for an unknown name, and for a workload that other
    engines cannot run."""
    try:
        workload = find_workload("latency", name, output_len)
    except ConfigError:
        workload = find_workload("throughput", name, output_len)
    if workload.measure not in COMPARABLE:
        raise ConfigError(f"workload {name!r} is not compared: it needs an engine that can be stepped")
    return workload


def measure(generate: Generate, workload: Workload, *, vocab_size: int, repeats: int, seed: int) -> Figure:
    """Measures a workload by the definitions of `jinfer bench`: TPOT is (time with m + 1 output tokens - time
    with 1) / m."""
    rng = random.Random(seed)

    def seconds(requests: Sequence[Lengths]) -> float:
        return generate(random_prompts(requests, vocab_size, rng), [each.output for each in requests])

    full = workload.requests
    first = [Lengths(each.prompt, 1) for each in full]
    seconds([Lengths(each.prompt, min(each.output, WARM_UP_TOKENS)) for each in full[:WARM_UP_REQUESTS]])
    if workload.measure is Measure.TPOT:
        times = [(-seconds(first) + seconds(full)) / (full[0].output - 1) for _ in range(repeats)]
        return Figure(statistics.median(times) * 1e3, "ms")
    time = statistics.median(seconds(full) for _ in range(repeats))
    if workload.measure is Measure.TTFT:
        return Figure(time * 1e3, "ms")
    count = (
        workload.num_output_tokens if workload.measure is Measure.OUTPUT_RATE else workload.num_prompt_tokens
    )
    return Figure(count / time, "tokens/s")


def check_counts(wanted: Sequence[int], got: Sequence[int]) -> None:
    """Raises RuntimeError where an engine gave fewer or more tokens than were asked for."""
    if list(wanted) != list(got):
        raise RuntimeError(
            f"asked for {sum(wanted)} output tokens and got {sum(got)}: the time means nothing"
        )


def described(figure: Figure) -> dict[str, Any]:
    return {"value": figure.value, "unit": figure.unit}
