"""A case: work of a known size, the implementations that do it, and the limit that they are compared with."""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.kernels.data import Data
from benchmarks.kernels.timing import Inputs, Step
from jinfer.bench.limits import MachineLimits

Make = Callable[[Data, int], Inputs]  # (where inputs come from, number of sets of arguments)
MAX_SETS = 64
KERNELS_FILE, MODELS_FILE = "kernels.jsonl", "models.jsonl"
ROTATED_BYTES = 512 * 10**6  # eight times the L2 cache of an H200


class Limit(enum.Enum):
    """The limit of the machine that bounds a case."""

    READ = "read bandwidth"
    COPY = "copy bandwidth"
    MATMUL = "matmul rate"
    TIGHTER = "read bandwidth or matmul rate, whichever takes longer"


@dataclass(frozen=True)
class Work:
    """The bytes and operations that a call cannot avoid."""

    read_bytes: int = 0
    written_bytes: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Target:
    """The project's target: a minimum in percent, TB/s or TFLOP/s, or a maximum in microseconds."""

    amount: float
    unit: Literal["%", "TB/s", "TFLOP/s", "us", "ratio"]


@dataclass(frozen=True)
class Baseline:
    """An implementation of another project, with inputs in its own layout and a few settings, of which the
    fastest counts."""

    make: Make
    steps: Mapping[str, Step]


@dataclass(frozen=True)
class Ratio:
    """The time of a case relative to that of the case `beside` in the same run, as a result under this id."""

    id: str
    beside: str


@dataclass(frozen=True)
class Tuning:
    """The entry that holds the best blocks of a case: `function` and `key` in
    `pallas_kernels/<folder>/tuned/<device>.json`."""

    folder: str
    function: str
    key: Mapping[str, int | str]
    candidates: Sequence[Any]


@dataclass(frozen=True)
class Case:
    """`build(blocks)` is a step of the Pallas kernel, with its own choice of blocks for None.

    `compiler_options` are XLA's for that step, and `file_name` is the file that results are kept in.
    """

    id: str
    op: str
    shape: str
    work: Work
    limit: Limit
    make: Make
    build: Callable[[Any], Step]
    reference: Step
    xla: Step | None = None
    jax: Baseline | None = None
    is_latency: bool = False
    target: Target | None = None
    tuning: Tuning | None = None
    ratio: Ratio | None = None
    compiler_options: dict[str, str | bool] | None = None
    file_name: str = KERNELS_FILE

    def num_sets(self, *, smoke: bool) -> int:
        """The number of sets of arguments, at least two, with which no call finds its own in the L2 cache."""
        num_bytes = self.work.read_bytes + self.work.written_bytes
        return 2 if smoke else max(2, min(MAX_SETS, -(-ROTATED_BYTES // num_bytes)))


@dataclass(frozen=True)
class Figure:
    """A time in the unit of its case, beside the limit in the same unit."""

    value: float
    unit: str
    limit: float
    percent_of_limit: float


def limit_us(work: Work, limit: Limit, limits: MachineLimits) -> tuple[float, Limit]:
    """The time that the machine needs at least, and which limit that is."""
    microseconds = {
        Limit.READ: work.read_bytes / limits.read_tb_per_s / 1e6,
        Limit.COPY: (work.read_bytes + work.written_bytes) / limits.copy_tb_per_s / 1e6,
        Limit.MATMUL: work.flops / limits.matmul_tflop_per_s / 1e6,
    }
    if limit is Limit.TIGHTER:
        limit = max((Limit.READ, Limit.MATMUL), key=lambda kind: microseconds[kind])
    return microseconds[limit], limit


def figure(case: Case, microseconds: float, limits: MachineLimits) -> Figure:
    """A case's time in the unit of the case, beside the limit in the same unit."""
    least_us, limit = limit_us(case.work, case.limit, limits)
    percent = 100 * least_us / microseconds
    if case.is_latency:
        return Figure(microseconds, "us", least_us, percent)
    rate = {
        Limit.READ: limits.read_tb_per_s,
        Limit.COPY: limits.copy_tb_per_s,
        Limit.MATMUL: limits.matmul_tflop_per_s,
    }[limit]
    unit = "TFLOP/s" if limit is Limit.MATMUL else "TB/s"
    return Figure(rate * least_us / microseconds, unit, rate, percent)
