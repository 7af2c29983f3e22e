"""The workloads that are measured: lengths of prompts and outputs, by name. Plain Python.

    latency      b1                 TPOT of one request of 128 tokens
                 bB-N               TPOT of B requests of N tokens that run together
                 ttft-N             time to the first token of one request of N tokens
    throughput   mixedB             output tokens/s of B requests of 100 to 1,024 tokens in, and as many out
                 BxN                output tokens/s of B requests of N tokens
                 prefill-BxN        input tokens/s of B requests of N tokens with one output token
                 shared-prefix      how much sooner 16 requests have their first token when they share 4,096
                                    tokens
                 shared-BxN+M       the same of B requests that share N tokens and have M of their own
                 azure              TPOT and TTFT while a trace is replayed
                 poisson-R          TPOT and TTFT at R requests a second that arrive at random

TPOT is (time with m + 1 output tokens - time with 1) / m for the whole batch.
"""

import enum
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinfer.errors import ConfigError

MIXED_LENGTHS = (100, 1024)
SHARED_PREFIX = ("16", "4096", "32")  # requests, shared tokens, tokens of their own
FORMS = {
    "latency": "b1, bROWS-PROMPT (b64-1024) or ttft-PROMPT (ttft-8192)",
    "throughput": "mixedREQUESTS (mixed256), REQUESTSxPROMPT (256x1024), prefill-REQUESTSxPROMPT "
    "(prefill-32x2048), shared-prefix (or shared-REQUESTSxPREFIX+OWN), azure or poisson-RATE (poisson-4)",
}


class Measure(enum.Enum):
    """The figure that is asked of a workload."""

    TPOT = "milliseconds per output token"
    TTFT = "time to the first token"
    OUTPUT_RATE = "output tokens per second"
    INPUT_RATE = "input tokens per second"
    SHARING = "time to the last first token, alone over shared"
    ARRIVALS = "times of requests that arrive one after another"


class Lengths(NamedTuple):
    """Tokens of a request."""

    prompt: int
    output: int


@dataclass(frozen=True)
class Workload:
    """`name` ends the id of the result. A workload of arrivals has no requests yet: see `arrivals`."""

    name: str
    measure: Measure
    requests: tuple[Lengths, ...] = ()
    shared_tokens: int = 0
    rate_per_s: float | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest request."""
        return max((sum(lengths) for lengths in self.requests), default=0)

    @property
    def num_prompt_tokens(self) -> int:
        return sum(lengths.prompt for lengths in self.requests)

    @property
    def num_output_tokens(self) -> int:
        return sum(lengths.output for lengths in self.requests)


def find_workload(kind: str, name: str, output_len: int) -> Workload:
    """The workload of a name. Raises ConfigError, which lists the known forms.

    `output_len` is m for TPOT and the length of each output for BxN; the other workloads say it themselves.
    """
    for pattern, make in _FORMS[kind].items():
        found = re.fullmatch(pattern, name)
        if found:
            return make(name, output_len, *found.groups())
    raise ConfigError(f"unknown {kind} workload {name!r}; there are {FORMS[kind]}")


def mixed_lengths(count: int) -> tuple[Lengths, ...]:
    """`count` prompt lengths, then as many output lengths, of `random.Random(0)`.

    For 256 these are 144,831 tokens in and 144,160 out.
    """
    rng = random.Random(0)
    prompts = [rng.randint(*MIXED_LENGTHS) for _ in range(count)]
    outputs = [rng.randint(*MIXED_LENGTHS) for _ in range(count)]
    return tuple(map(Lengths, prompts, outputs))


def random_prompts(lengths: Sequence[Lengths], vocab_size: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Random token ids."""
    return [tuple(rng.choices(range(vocab_size), k=each.prompt)) for each in lengths]


def shared_prompts(
    workload: Workload, vocab_size: int, rng: random.Random, *, is_shared: bool
) -> list[tuple[int, ...]]:
    """Prompts that all begin with the same `workload.shared_tokens` tokens, or else each with its own."""

    def tokens(count: int) -> list[int]:
        return rng.choices(range(vocab_size), k=count)

    prefix, prompts = tokens(workload.shared_tokens), []
    for lengths in workload.requests:
        own = tokens(lengths.prompt - workload.shared_tokens)
        prompts.append(tuple((prefix if is_shared else tokens(workload.shared_tokens)) + own))
    return prompts


def _together(name: str, output_len: int, rows: str, prompt: str) -> Workload:
    return Workload(name, Measure.TPOT, (Lengths(int(prompt), output_len + 1),) * int(rows))


def _first_token(name: str, _, prompt: str) -> Workload:
    return Workload(name, Measure.TTFT, (Lengths(int(prompt), 1),))


def _mixed(name: str, _, count: str) -> Workload:
    return Workload(name, Measure.OUTPUT_RATE, mixed_lengths(int(count)))


def _equal(name: str, output_len: int, count: str, prompt: str) -> Workload:
    return Workload(name, Measure.OUTPUT_RATE, (Lengths(int(prompt), output_len),) * int(count))


def _prefill(name: str, _, count: str, prompt: str) -> Workload:
    return Workload(name, Measure.INPUT_RATE, (Lengths(int(prompt), 1),) * int(count))


def _sharing(name: str, _, count: str, shared: str, own: str) -> Workload:
    requests = (Lengths(int(shared) + int(own), 1),) * int(count)
    return Workload(name, Measure.SHARING, requests, shared_tokens=int(shared))


def _azure(name: str, _) -> Workload:
    return Workload(name, Measure.ARRIVALS)


def _poisson(name: str, _, rate: str) -> Workload:
    return Workload(name, Measure.ARRIVALS, rate_per_s=float(rate))


_COUNT, _RATE = r"([1-9]\d*)", r"(\d*\.?\d*[1-9]\d*)"
_FORMS: dict[str, dict[str, Callable[..., Workload]]] = {
    "latency": {
        "b1": lambda name, output_len: _together(name, output_len, "1", "128"),
        f"b{_COUNT}-{_COUNT}": _together,
        f"ttft-{_COUNT}": _first_token,
    },
    "throughput": {
        f"mixed{_COUNT}": _mixed,
        f"{_COUNT}x{_COUNT}": _equal,
        f"prefill-{_COUNT}x{_COUNT}": _prefill,
        "shared-prefix": lambda name, output_len: _sharing(name, output_len, *SHARED_PREFIX),
        rf"shared-{_COUNT}x{_COUNT}\+{_COUNT}": _sharing,
        "azure": _azure,
        f"poisson-{_RATE}": _poisson,
    },
}
