"""The options of `jinfer bench serve`, and the jobs that they make. Plain Python."""

import argparse
import json
import sys
from typing import Any

from jinfer.bench.arguments import (
    add_duration,
    add_json,
    add_output_len,
    add_seed,
    add_speed,
    add_trace,
    add_workloads,
    not_negative,
    positive,
)
from jinfer.bench.serve import conversations
from jinfer.bench.serve.bodies import PATHS
from jinfer.bench.serve.conversations import FORMS, WorkloadOptions
from jinfer.bench.serve.figures import LIMITED
from jinfer.bench.serve.job import DEFAULT_NUM_CONVERSATIONS, LoadJob
from jinfer.bench.serve.load import LoadPlan
from jinfer.errors import ConfigError


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """All of them, with the workloads in the description."""
    parser.description = f"{parser.description}\n\n{conversations.__doc__}"
    add_workloads(parser, FORMS)
    _add_server(parser)
    _add_load(parser)
    _add_requests(parser)
    _add_output(parser)


def job_of(workload: str, options: argparse.Namespace) -> LoadJob:
    """The job of a workload. Raises ConfigError for options that contradict each other, and for a workload
    that cannot be sent."""
    _check(workload, options)
    job = LoadJob(
        url=options.url,
        endpoint=options.endpoint,
        workload=workload,
        workload_options=WorkloadOptions(
            seed=options.seed,
            vocab_size=options.vocab_size,
            output_len=options.output_len,
            ignore_eos=options.ignore_eos,
            prompts=options.prompts,
            trace=options.trace,
            speed=options.speed,
            duration_s=options.duration,
        ),
        plan=LoadPlan(
            rate_per_s=options.rate,
            concurrency=options.concurrency,
            num_conversations=options.num_requests,
            duration_s=options.duration,
            think_time_s=options.think_time,
            seed=options.seed,
        ),
        fields={"temperature": options.temperature, **options.body},
        timeout_s=options.timeout,
        api_key_variable=options.api_key_variable,
    )
    return job.checked()


def _check(workload: str, options: argparse.Namespace) -> None:
    if not options.url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {options.url} must begin with http:// or https://")
    has_times, is_asked = workload == "trace", options.rate is not None or options.concurrency is not None
    if has_times and is_asked:
        raise ConfigError(
            "the workload trace has times of its own: leave out --rate and --concurrency; --speed"
        )
    if not has_times and not is_asked:
        raise ConfigError(
            f"{workload} needs --rate R (so many begin a second, at random) or --concurrency C (so many at a "
            "time)"
        )
    if options.concurrency is not None and options.concurrency < options.processes:
        raise ConfigError(
            f"--processes {options.processes} divide --concurrency {options.concurrency} among them; ask for "
            "fewer processes"
        )


def _add_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        type=lambda text: text.rstrip("/").removesuffix("/v1"),
        default="http://127.0.0.1:8000",
        help="default %(default)s",
    )
    server.add_argument("--model", metavar="NAME", help="default: the first that the server lists")
    server.add_argument(
        "--endpoint", choices=sorted(PATHS), default="completions", help="default %(default)s"
    )
    server.add_argument(
        "--api-key-variable",
        metavar="VARIABLE",
        help="the environment variable that holds the server's key; default: none is sent",
    )
    server.add_argument(
        "--timeout", type=positive(float), default=600.0, metavar="S", help="of a whole answer; default 600"
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    load = parser.add_argument_group("load")
    when = load.add_mutually_exclusive_group()
    when.add_argument(
        "--rate",
        type=positive(float),
        metavar="R",
        help="conversations that begin a second, at random (Poisson), whatever the server does (open loop)",
    )
    when.add_argument(
        "--concurrency", type=positive(int), metavar="C", help="conversations at a time (closed loop)"
    )
    load.add_argument(
        "--num-requests",
        type=positive(int),
        metavar="N",
        help=f"conversations in all; default: those of the file, or {DEFAULT_NUM_CONVERSATIONS}, unless "
        "--duration is given",
    )
    add_duration(load, "none begins later; of a trace, its first S seconds")
    add_speed(load, "a trace", 1.0)
    load.add_argument(
        "--think-time",
        type=not_negative(float),
        default=0.0,
        metavar="S",
        help="before another turn; default 0",
    )
    load.add_argument(
        "--warm-up",
        type=not_negative(int),
        default=1,
        metavar="N",
        help="requests before, not counted; default 1",
    )
    load.add_argument(
        "--processes",
        type=positive(int),
        default=1,
        metavar="N",
        help="that send; default 1, enough for some 20,000 chunks a second",
    )
    add_seed(load, "times and of random prompts")


def _add_requests(parser: argparse.ArgumentParser) -> None:
    requests = parser.add_argument_group("requests")
    requests.add_argument("--prompts", metavar="FILE", help="JSON lines, of prompts and conversations")
    add_trace(requests, "trace")
    add_output_len(requests, "most tokens of an answer to a line of --prompts")
    requests.add_argument("--ignore-eos", action="store_true", help="the same, and no fewer")
    requests.add_argument(
        "--vocab-size",
        type=positive(int),
        default=256,
        metavar="N",
        help="random token ids are below it; default 256, which every model has",
    )
    requests.add_argument(
        "--temperature", type=not_negative(float), default=0.0, metavar="T", help="default 0, which is greedy"
    )
    requests.add_argument(
        "--body",
        type=_json_object,
        default={},
        metavar="JSON",
        help="an object whose fields each request has too",
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument(
        "--goodput",
        nargs="+",
        type=_limit,
        default=[],
        metavar="NAME:MS",
        help=f"limits that good requests meet, of {', '.join(LIMITED)} (itl: the longest); ttft:200 tpot:50",
    )
    add_json(output, each="load", without="text")
    output.add_argument("--records", metavar="FILE", help="a line of JSON for each request")
    output.add_argument("--plot", metavar="FILE", help="a picture: .png, .svg or .pdf; needs matplotlib")
    output.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="a line a second on stderr; default: in a terminal",
    )


def _limit(text: str) -> tuple[str, float]:
    name, _, limit = text.partition(":")
    if name not in LIMITED:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME:MS with {', '.join(LIMITED)}; workloads come before --goodput"
        )
    return name, positive(float)(limit)


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError
    return value
