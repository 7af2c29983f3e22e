"""The command line. See the package."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

import benchmarks.soak as package
from benchmarks.record import Line, commit
from benchmarks.server_process import ServerError, ServerProcess, model_options, running_server
from benchmarks.soak.checks import end_faults, memory_faults, memory_figures
from benchmarks.soak.clients import Clients, Tally
from benchmarks.soak.traffic import Traffic
from benchmarks.soak.watch import Sample, Watch
from jinfer.bench.arguments import positive
from jinfer.bench.circumstances import circumstances
from jinfer.bench.json_lines import command_text
from jinfer.bench.opening import assigned_options

EXACT_DTYPE = "float32"  # in bfloat16 a step of more rows rounds otherwise, and another token may come out


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every check held."""
    options = _options(arguments)
    served = {**model_options(options.model, options.config), **assigned_options(options.serve_option)}
    try:
        with running_server(served) as server:
            tally, watch, end = asyncio.run(soak(server, options))
            faults = [*tally.faults, *end_faults(end, server.failures, server.end())]
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    memory = memory_figures(watch.samples)
    faults += memory_faults(memory)
    print(
        json.dumps(_line(options, server, tally, watch.samples, end, memory, faults, arguments)), flush=True
    )
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    return 1 if faults else 0


async def soak(server: ServerProcess, options: argparse.Namespace) -> tuple[Tally, Watch, Sample]:
    """Sends traffic for the time asked for, and gives the tally, the samples and the state after the last
    answer. Before its time begins, a request of each kind is answered: a server compiles behind its start."""
    num_clients = options.clients or 2 * server.max_num_seqs
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        has_chat = await _has_chat(session)
        clients = Clients(session, texts_must_repeat=server.dtype == EXACT_DTYPE)
        all_traffic = [
            Traffic(f"{options.seed} {number}", max_model_len=server.max_model_len, has_chat=has_chat)
            for number in range(num_clients)
        ]
        await asyncio.gather(*map(clients.send, all_traffic[0].one_of_each()))
        watch = Watch(server, session)
        sampling = asyncio.create_task(
            watch.keep_sampling(options.sample_s, lambda sample: _show(sample, clients.tally))
        )
        until_s = asyncio.get_running_loop().time() + 60 * options.minutes
        await asyncio.gather(*(clients.keep_sending(traffic, until_s) for traffic in all_traffic))
        sampling.cancel()
        return clients.tally, watch, await watch.idle_sample()


async def _has_chat(session: aiohttp.ClientSession) -> bool:
    """True where the model has a chat template. Raises ServerError where it has no tokenizer."""
    async with session.get("/tokenizer_info") as response:
        info = await response.json()
    if response.status != 200:
        raise ServerError(
            f"a soak sends texts, and this model has no tokenizer ({info}); --serve-option tokenizer=DIR"
        )
    return bool(info["chat_template"])


def _show(sample: Sample, tally: Tally) -> None:
    memory = ", ".join(f"{name} {mib:,.0f}" for name, mib in sample.resident_mib.items())
    print(
        f"{sample.time_s:7.1f} s  {tally.num_requests.total():,} requests, {tally.num_faults} faults  "
        f"running {sample.num_running}, waiting {sample.num_waiting}, pages {100 * sample.cache_usage:.0f}%  "
        f"MiB: {memory}",
        file=sys.stderr,
        flush=True,
    )


def _line(
    options: argparse.Namespace,
    server: ServerProcess,
    tally: Tally,
    samples: Sequence[Sample],
    end: Sample,
    memory: dict[str, Any],
    faults: Sequence[str],
    arguments: Sequence[str],
) -> Line:
    """The result, whose value is the number of faults."""
    found = circumstances(command_text(["python", "-m", "benchmarks.soak", *arguments], outputs=()))
    return {
        "id": "serve-soak",
        "value": len(faults),
        "unit": "faults",
        "limit": 0,
        "percent_of_limit": 0 if faults else 100,
        "commit": commit(),
        **found,
        "details": {
            "minutes": options.minutes,
            "num_clients": options.clients or 2 * server.max_num_seqs,
            "num_requests": tally.num_requests.total(),
            "num_requests_by_kind": dict(sorted(tally.num_requests.items())),
            "num_answers_by_status": {
                str(status): count for status, count in sorted(end.num_answers.items())
            },
            "num_output_tokens": tally.num_output_tokens,
            "num_generated_tokens": end.num_generated_tokens,
            "num_preemptions": end.num_preemptions,
            "num_left": tally.num_left,
            "num_golden_repeats": tally.num_golden_repeats,
            "num_golden_changes": tally.num_golden_changes,
            "most_running": max((sample.num_running for sample in samples), default=0),
            "most_waiting": max((sample.num_waiting for sample in samples), default=0),
            "resident_mib": {"first": samples[0].resident_mib if samples else {}, "end": end.resident_mib},
            "memory": memory,
        },
    }


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak",
        description=package.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=positive(float), default=10.0, metavar="M", help="default 10")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="DIR", help="default: the small model that ships with jinfer")
    model.add_argument("--config", type=Path, metavar="DIR", help="a config.json, and random weights")
    parser.add_argument(
        "--clients",
        type=positive(int),
        metavar="N",
        help="requests at a time; default: twice as many as the engine runs, so that its rows are full",
    )
    parser.add_argument(
        "--serve-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of `jinfer serve` by its name, as in max_num_seqs=16; may be repeated",
    )
    parser.add_argument(
        "--sample-s", type=positive(float), default=10.0, metavar="S", help="between two samples; default 10"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
