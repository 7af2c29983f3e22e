"""Requests that arrive one after another: from a trace, or at random. Plain Python."""

import csv
import datetime
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinfer.bench.workloads import MIXED_LENGTHS, Lengths
from jinfer.errors import ConfigError

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True)
class Arrival:
    """A request and when it comes, in seconds after the first."""

    time_s: float
    lengths: Lengths


def trace_arrivals(file: Path | None, *, duration_s: float, speed: float) -> tuple[Arrival, ...]:
    """The requests of the first `duration_s` seconds of a trace, which come `speed` times as fast as they
    did.

    The file is a CSV with the columns TIMESTAMP, ContextTokens and GeneratedTokens (Azure's public traces of
    2023). Raises ConfigError where it is missing or is something else.
    """
    if file is None:
        raise ConfigError(
            "the workload azure replays a trace: give --trace FILE.csv (AzureLLMInferenceTrace_conv.csv)"
        )
    if not file.is_file():
        raise ConfigError(f"--trace {file}: there is no such file")
    arrivals = []
    try:
        for arrival in _rows(file):
            if arrival.time_s >= duration_s:
                break
            arrivals.append(Arrival(arrival.time_s / speed, arrival.lengths))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"--trace {file} cannot be read as CSV in UTF-8: {error}; give another file"
        ) from error
    return tuple(arrivals)


def _rows(file: Path) -> Iterator[Arrival]:
    with file.open(encoding="utf-8", newline="") as stream:
        first = None
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                time, prompt, output = (row[column] for column in COLUMNS)
                moment = datetime.datetime.fromisoformat(time)
                first = first or moment
                lengths = Lengths(max(1, int(prompt)), max(1, int(output)))
                yield Arrival((moment - first).total_seconds(), lengths)
            except (KeyError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"{file}, line {number}: a line of a trace has {', '.join(COLUMNS)}, and this one has "
                    f"{row}"
                ) from error


def poisson_arrivals(rate_per_s: float, *, duration_s: float, seed: int) -> tuple[Arrival, ...]:
    """Independent arrivals at a mean rate, with prompts and outputs of 100 to 1,024 tokens. The first comes
    at 0."""
    rng, arrivals = random.Random(seed), []
    for time_s in poisson_times(rate_per_s, rng):
        if time_s >= duration_s:
            break
        arrivals.append(Arrival(time_s, Lengths(rng.randint(*MIXED_LENGTHS), rng.randint(*MIXED_LENGTHS))))
    return tuple(arrivals)


def poisson_times(rate_per_s: float, rng: random.Random) -> Iterator[float]:
    """Times in seconds of independent arrivals at a mean rate, without end. The first is 0."""
    time_s = 0.0
    while True:
        yield time_s
        time_s += rng.expovariate(rate_per_s)
