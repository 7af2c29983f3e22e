"""Results of workloads beside the limits of the machine, as lines of JSON and as a table for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinfer.bench.limits import MachineLimits

WIDTHS = (30, 12, 14, 12, 9)


@dataclass(frozen=True)
class Result:
    """A figure and its limit, both in `unit`. `more_is_better` of rates, and not of times."""

    id: str
    value: float
    unit: str
    limit: float
    more_is_better: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def percent_of_limit(self) -> float:
        """100 is a machine that does nothing but what the workload cannot avoid."""
        return 100 * (self.value / self.limit if self.more_is_better else self.limit / self.value)

    def line(self) -> dict[str, Any]:
        """The part of a recorded line that this run measured."""
        return {
            "id": self.id,
            "value": rounded(self.value),
            "unit": self.unit,
            "limit": rounded(self.limit),
            "percent_of_limit": round(self.percent_of_limit, 1),
        }


def rounded(value: float) -> float:
    """Four significant digits: more than repeats."""
    return float(f"{value:.4g}")


def limits_text(limits: MachineLimits) -> str:
    """The limits that were measured of the machine."""
    return (
        f"measured limits: read {limits.read_tb_per_s:.3f} TB/s, copy {limits.copy_tb_per_s:.3f} TB/s, "
        f"bfloat16 matmul {limits.matmul_tflop_per_s:.1f} TFLOP/s"
    )


def header() -> str:
    """The names of the columns."""
    return _row(("workload", "value", "unit", "limit", "of limit", "details"))


def result_text(result: Result) -> str:
    """A line of the table."""
    details = ", ".join(f"{name} {_short(value)}" for name, value in result.details.items())
    value, limit = f"{result.value:,.4g}", f"{result.limit:,.4g}"
    if result.value >= 1000:
        value, limit = f"{result.value:,.0f}", f"{result.limit:,.0f}"
    return _row((result.id, value, result.unit, limit, f"{result.percent_of_limit:.1f}%", details))


def _row(cells: Sequence[str]) -> str:
    name, value, unit, limit, percent = (
        f"{cell:>{width}}" for cell, width in zip(cells[:5], WIDTHS, strict=True)
    )
    name, unit = f"{name.strip():<{WIDTHS[0]}}", f"{unit.strip():<{WIDTHS[2]}}"
    return f"{name} {value} {unit} {limit} {percent}  {cells[5]}".rstrip()


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(_short(each) for each in value) + "]"
    return str(value)
