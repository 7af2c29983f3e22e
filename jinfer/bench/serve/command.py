"""`jinfer bench serve` as it runs: each load in turn, and what is printed and written of it."""

import argparse
import asyncio
import contextlib
import datetime
import importlib.metadata
import logging
import platform
import sys
from collections.abc import Mapping
from typing import Any

from jinfer.bench.ids import model_prefix
from jinfer.bench.json_lines import JsonLines, command_text, open_json_lines
from jinfer.bench.serve.figures import example_failures, load_figures
from jinfer.bench.serve.job import LoadJob, LoadOutcome
from jinfer.bench.serve.load import Tally
from jinfer.bench.serve.options import job_of
from jinfer.bench.serve.part import Show, job_client, warm_up
from jinfer.bench.serve.plot import check_plot, draw
from jinfer.bench.serve.processes import run_load
from jinfer.bench.serve.records import RequestRecord
from jinfer.bench.serve.report import report_text, warnings

logger = logging.getLogger(__name__)

OUTPUTS = ("--json", "--records", "--plot")


def run_serve(options: argparse.Namespace) -> int:
    """Makes each load in turn. The status is 1 where a load has no answer at all."""
    sys.stdout.write("")  # raises WriteError before anything is measured that could not be printed
    jobs = [job_of(name, options) for name in options.workloads]
    if options.plot is not None:
        check_plot()
    loads: dict[str, list[RequestRecord]] = {}
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open_json_lines("--json", options.json))
        records_output = stack.enter_context(open_json_lines("--records", options.records))
        model, versions = asyncio.run(_server(jobs[0], options.model))
        for job in jobs:
            job = job.with_model(model)
            outcome = asyncio.run(_measured(job, options))
            loads[job.title] = outcome.records
            figures = _figures(job, outcome, options)
            _print(job, figures, outcome, is_printed=not output.is_on_stdout)
            output.write(_line(job, model, figures, versions, options))
            _write_records(records_output, job, model, outcome.records)
            if outcome.was_interrupted:
                raise KeyboardInterrupt
    if options.plot is not None:
        draw(loads, options.plot)
    return 0 if all(any(record.is_ok for record in records) for records in loads.values()) else 1


async def _server(job: LoadJob, model: str | None) -> tuple[str, dict[str, str | None]]:
    """The model that is asked, and the versions of both sides."""
    async with job_client(job) as client:
        model = await client.first_model() if model is None else model
        version = await client.version()
    packages = {name: importlib.metadata.version(name) for name in ("jinfer", "aiohttp")}
    return model, {**packages, "python": platform.python_version(), "server": version}


async def _measured(job: LoadJob, options: argparse.Namespace) -> LoadOutcome:
    async with job_client(job) as client:
        await warm_up(job, client, options.warm_up)
    show = _shown(job.title) if options.progress else lambda elapsed_s, tally: None
    return await run_load(job, options.processes, show)


def _shown(title: str) -> Show:
    """A line on stderr that says how far a load is."""

    def show(elapsed_s: float, tally: Tally) -> None:
        num_running = tally.num_sent - tally.num_ok - tally.num_failed
        print(
            f"{title} {elapsed_s:6.1f} s  sent {tally.num_sent:,}  running {num_running:,}  "
            f"ok {tally.num_ok:,}  failed {tally.num_failed:,}",
            file=sys.stderr,
            flush=True,
        )

    return show


def _figures(job: LoadJob, outcome: LoadOutcome, options: argparse.Namespace) -> dict[str, Any]:
    return {
        **load_figures(outcome.records, dict(options.goodput), outcome.lags_s),
        "client_cpu_percent": round(100 * outcome.cpu_share, 1),
        "was_interrupted": outcome.was_interrupted,
        "is_open_loop": job.plan.concurrency is None,
    }


def _print(job: LoadJob, figures: Mapping[str, Any], outcome: LoadOutcome, *, is_printed: bool) -> None:
    if is_printed:
        print(report_text(job.title, figures, example_failures(outcome.records)), flush=True)
    for warning in warnings(figures):
        logger.warning("warning: %s", warning)


def _line(
    job: LoadJob,
    model: str,
    figures: Mapping[str, Any],
    versions: Mapping[str, str | None],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The line of a load, in the form of the other benchmarks'."""
    return {
        "id": f"{model_prefix(model)}-serve-{job.name}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": dict(versions),
        "command": command_text(["jinfer", *options.words], OUTPUTS),
        "details": dict(figures),
    }


def _write_records(output: JsonLines, job: LoadJob, model: str, records: list[RequestRecord]) -> None:
    load_id = f"{model_prefix(model)}-serve-{job.name}"
    for record in sorted(records, key=lambda record: (record.conversation, record.turn)):
        output.write({"id": load_id, **record.line()})
