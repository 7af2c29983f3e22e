"""`jinfer bench latency | throughput | start | serve`."""

import argparse
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jinfer.bench import workloads
from jinfer.bench.arguments import (
    add_duration,
    add_output_len,
    add_seed,
    add_speed,
    add_trace,
    add_workloads,
    positive,
)
from jinfer.bench.arrivals import Arrival, poisson_arrivals, trace_arrivals
from jinfer.bench.ids import model_prefix
from jinfer.bench.measure import check, measure
from jinfer.bench.opening import OpenBench, Source, assigned_options, machine_limits, open_bench
from jinfer.bench.output import add_output_options, check_output, open_output
from jinfer.bench.profile import profile
from jinfer.bench.results import Result
from jinfer.bench.serve.cli import add_serve
from jinfer.bench.start import measure_starts, start_results
from jinfer.bench.steady import device_step_ms
from jinfer.bench.workloads import Measure, Workload, find_workload
from jinfer.errors import ConfigError

logger = logging.getLogger(__name__)

KINDS = {
    "latency": "time per output token (TPOT) and to the first (TTFT)",
    "throughput": "tokens per second, and requests that arrive one after another",
    "start": "time to ready, with an empty and with a warm compilation cache",
}


def add_bench(
    parser: argparse.ArgumentParser,
    add_engine_options: Callable[[argparse.ArgumentParser], None],
    engine_options: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
    """Adds the commands. The engine's own options are added, and read from what was parsed, by the functions
    given."""
    commands = parser.add_subparsers(required=True, metavar="KIND")
    for kind, about in KINDS.items():
        is_start = kind == "start"
        command = commands.add_parser(
            kind,
            help=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description=about if is_start else workloads.__doc__,
        )
        if not is_start:
            _add_measuring(command, kind)
        if kind == "throughput":
            _add_arrivals(command)
        _add_model(command)
        add_output_options(command)
        add_engine_options(command)
        command.set_defaults(run=_run_start if is_start else _run, kind=kind, engine_options=engine_options)
    add_serve(commands)


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", metavar="DIR_OR_HUB_ID", help="default: the small model that ships with jinfer"
    )
    model.add_argument(
        "--config", type=Path, metavar="DIR", help="a directory with a config.json; random weights"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine by its name, before what else says it; may be repeated",
    )


def _add_measuring(parser: argparse.ArgumentParser, kind: str) -> None:
    add_workloads(parser, workloads.FORMS[kind])
    parser.add_argument(
        "--repeats", type=positive(int), default=3, metavar="N", help="the median counts; default 3"
    )
    add_output_len(parser, "output tokens of bROWS-PROMPT (after the first) and REQUESTSxPROMPT")
    add_seed(parser, "the random prompts")
    parser.add_argument(
        "--device-time",
        action="store_true",
        help="also dispatch a decode step back to back: what TPOT takes longer, the device is idle",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="DIR",
        help="then write a trace of some steps; see `python -m benchmarks.trace`",
    )


def _add_arrivals(parser: argparse.ArgumentParser) -> None:
    add_trace(parser, "azure")
    add_speed(parser, "azure", 2.0)
    add_duration(parser, "seconds of the trace, or of poisson's arrivals", 120.0)


def _run(options: argparse.Namespace) -> int:
    """Measures each workload in turn on one engine."""
    chosen = [find_workload(options.kind, name, options.output_len) for name in options.workloads]
    arrivals = {workload.name: _arrivals(workload, options) for workload in chosen}
    if options.profile and any(workload.measure is Measure.ARRIVALS for workload in chosen):
        raise ConfigError("--profile shows steady steps, and arrivals have none; profile another workload")
    check_output()
    source, engine_options = Source(options.model, options.config), _engine_options(options)
    longest = source.longest_limits(engine_options)
    for workload in chosen:
        check(longest, workload, arrivals[workload.name])
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open_output(options, options.words))
        machine = machine_limits()
        opened = stack.enter_context(
            open_bench(source, engine_options, machine, options.repeats, options.seed, options.progress)
        )
        for workload in chosen:
            check(opened.bench.session.limits, workload, arrivals[workload.name])
        output.begin(machine)
        for workload in chosen:
            output.add(_measured(opened, workload, arrivals[workload.name], options))
            if options.profile:
                profile(opened.bench.session, opened.parts.engine, workload, options.profile / workload.name)
                logger.info("a trace of %s is in %s", workload.name, options.profile / workload.name)
    return 0


def _measured(
    opened: OpenBench, workload: Workload, arrivals: Sequence[Arrival], options: argparse.Namespace
) -> Result:
    if opened.monitor is not None:
        opened.monitor.begin(workload.name)
    result = measure(opened.bench, workload, arrivals)
    if not options.device_time or workload.measure is not Measure.TPOT:
        return result
    device_ms = device_step_ms(opened.bench.session, opened.parts.engine, workload.requests)
    idle_percent = 100 * max(0.0, 1 - device_ms / result.value)
    found = {"device_step_ms": round(device_ms, 3), "idle_percent": round(idle_percent, 1)}
    return dataclasses.replace(result, details={**result.details, **found})


def _run_start(options: argparse.Namespace) -> int:
    """Starts two engines in processes of their own, and measures the machine when they are gone."""
    source, engine_options = Source(options.model, options.config), _engine_options(options)
    check_output()
    source.check(engine_options)
    with open_output(options, options.words) as output:
        starts = measure_starts(source, engine_options)
        machine = machine_limits()
        output.begin(machine)
        for result in start_results(starts, model_prefix(source.name), machine.read_tb_per_s):
            output.add(result)
    return 0


def _arrivals(workload: Workload, options: argparse.Namespace) -> Sequence[Arrival]:
    if workload.measure is not Measure.ARRIVALS:
        return ()
    if workload.rate_per_s is None:
        file = None if options.trace is None else Path(options.trace)
        return trace_arrivals(file, duration_s=options.duration, speed=options.speed)
    return poisson_arrivals(workload.rate_per_s, duration_s=options.duration, seed=options.seed)


def _engine_options(options: argparse.Namespace) -> dict[str, Any]:
    return {**options.engine_options(options), **assigned_options(options.set)}
