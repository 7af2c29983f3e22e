"""Some variants in a process of its own: reads what to measure as JSON from stdin, and prints a line for each
result.

Steps share the process and the weights, since each is measured in a second; an engine has its own.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.ablation.decode_step import DecodeStep
from benchmarks.ablation.variants import Variant, find_variants
from benchmarks.compare.workloads import comparable_workload
from jinfer.bench.ids import model_prefix
from jinfer.bench.limits import MachineLimits
from jinfer.bench.measure import measure
from jinfer.bench.opening import Source, machine_limits, open_bench, work_of
from jinfer.bench.results import Result
from jinfer.bench.roofline import decode_step_s
from jinfer.bench.workloads import Workload
from jinfer.errors import JinferError

OUTPUT_LEN = 128
# What a model needs to be loaded: pages of an engine would leave no room for the steps' caches.
SMALL = {
    "num_pages": 2,
    "max_model_len": 16,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 16,
    "progress": False,
}


def main(request: dict[str, Any]) -> int:
    """Returns the exit status. An error of jinfer's is printed without a traceback."""
    try:
        variants = find_variants(request["variants"])
        for variant in variants:
            variant.check()
        machine = machine_limits() if request["machine"] is None else MachineLimits(**request["machine"])
        circumstances = record.circumstances(request["command"])
        for name, found in results(variants, request, machine):
            line = (
                {"error": str(found)} if isinstance(found, Exception) else {**found.line(), **circumstances}
            )
            print(json.dumps({**line, "variant": name, "machine": dataclasses.asdict(machine)}), flush=True)
    except JinferError as error:
        print(f"{', '.join(request['variants'])}: {error}", file=sys.stderr)
        return 1
    return 0


def results(
    variants: Sequence[Variant], request: dict[str, Any], machine: MachineLimits
) -> Iterator[tuple[str, Result | Exception]]:
    """Yields a result for each workload of each variant, or the exception that was raised instead."""
    source = Source(config=Path(request["config"]))
    prefix = f"ablation-{record.short_id(model_prefix(source.name))}"
    if all(variant.step for variant in variants):
        yield from _steps(variants, source, request, prefix, machine)
        return
    (variant,) = variants
    if variant.patch is not None:
        variant.patch()
    options = {**request["options"], **variant.options}
    with open_bench(source, options, machine, request["repeats"], 0, False) as opened:
        bench = dataclasses.replace(opened.bench, prefix=f"{prefix}-{variant.name}")
        for workload in _workloads(variant, request):
            yield variant.name, measure(bench, workload)


def _steps(
    variants: Sequence[Variant], source: Source, request: dict[str, Any], prefix: str, machine: MachineLimits
) -> Iterator[tuple[str, Result | Exception]]:
    """Times decode steps of a model without its engine. All steps are traced, then compiled in threads, then
    timed one after the other; a step that fails does not end the others."""
    with source.start({**request["options"], **SMALL}) as parts, ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = parts.loaded
        work, model, params = work_of(parts), loaded.model, loaded.params
        begun: list[tuple[Variant, Workload, DecodeStep | Exception, Future | None]] = []
        for variant, workload in ((each, name) for each in variants for name in _workloads(each, request)):
            assert variant.step is not None
            try:
                step = DecodeStep(model, params, workload, variant.step)
                begun.append((variant, workload, step, pool.submit(step.compile)))
            except Exception as error:  # whatever a kernel or JAX raises
                begun.append((variant, workload, error, None))
        wait([future for *_, future in begun if future is not None])
        for variant, workload, step, future in begun:
            try:
                if isinstance(step, Exception):
                    raise step
                assert future is not None
                milliseconds = step.time_ms(future.result(), params)
            except Exception as error:  # whatever XLA or the driver raises
                yield variant.name, error
                continue
            least_ms = decode_step_s(work, machine, workload.requests) * 1e3
            yield (
                variant.name,
                Result(f"{prefix}-{variant.name}-{workload.name}", milliseconds, "ms", least_ms),
            )


def _workloads(variant: Variant, request: dict[str, Any]) -> list[Workload]:
    return [comparable_workload(name, OUTPUT_LEN) for name in request["workloads"] or variant.workloads]


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
