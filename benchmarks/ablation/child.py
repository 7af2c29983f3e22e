"""One variant in a process of its own: reads what to measure as JSON from stdin, and prints a line for each result."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.ablation.variants import Variant, find_variants
from benchmarks.compare.workloads import comparable_workload
from jinfer.bench import record
from jinfer.bench.limits import Limits
from jinfer.bench.measure import measure
from jinfer.bench.opening import Source, machine_limits, open_bench, work_of
from jinfer.bench.results import Result, model_prefix
from jinfer.bench.roofline import decode_step_s
from jinfer.errors import JinferError

OUTPUT_LEN = 128


def main(request: dict[str, Any]) -> int:
    """The exit status. An error of ours is said without a traceback."""
    try:
        (variant,) = find_variants([request["variant"]])
        variant.check()
        machine = machine_limits() if request["machine"] is None else Limits(**request["machine"])
        circumstances = record.circumstances(request["command"])
        for result in results(variant, request, machine):
            line = {**result.line(), **circumstances, "machine": dataclasses.asdict(machine)}
            print(json.dumps(line), flush=True)
    except JinferError as error:
        print(f"{request['variant']}: {error}", file=sys.stderr)
        return 1
    return 0


def results(variant: Variant, request: dict[str, Any], machine: Limits) -> Iterator[Result]:
    """A result for each workload of the variant, or for those of the request."""
    source = Source(config=Path(request["config"]))
    workloads = [comparable_workload(name, OUTPUT_LEN) for name in request["workloads"] or variant.workloads]
    options = {**request["options"], **variant.options}
    if variant.patch is not None:
        variant.patch()
    prefix = f"ablation-{model_prefix(source.name)}-{variant.name}"
    if variant.measure_step is not None:
        yield from _steps(variant, source, options, prefix, workloads, machine)
        return
    with open_bench(source, options, machine, request["repeats"], 0, False) as opened:
        bench = dataclasses.replace(opened.bench, prefix=prefix)
        for workload in workloads:
            yield measure(bench, workload)


def _steps(variant, source, options, prefix, workloads, machine) -> Iterator[Result]:
    """Without an engine around the step: its pages would leave no room for a second cache."""
    small = {**options, "num_pages": 2, "max_num_seqs": 1, "max_num_batched_tokens": 16, "progress": False}
    with source.load(small) as llm:
        work = work_of(llm)
        for workload in workloads:
            milliseconds = variant.measure_step(llm._loaded.model, llm._loaded.params, workload)
            least_ms = decode_step_s(work, machine, workload.requests) * 1e3
            yield Result(f"{prefix}-{workload.suffix}", milliseconds, "ms", least_ms)


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
