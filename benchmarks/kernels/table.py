"""The rows as a text table."""

from collections.abc import Callable
from typing import Any

from benchmarks.kernels.case import Figure, Target
from benchmarks.kernels.record import first_line
from benchmarks.kernels.run import Measured, Row
from jinfer.bench.limits import MachineLimits

COLUMNS: tuple[tuple[str, int], ...] = (
    ("case", 34),
    ("us", 10),
    ("value", 14),
    ("of limit", 9),
    ("x XLA", 7),
    ("x jax", 7),
    ("target", 22),
    ("shape", 0),
)


def limits_text(limits: MachineLimits) -> str:
    """The line with the measured limits of the machine."""
    return (
        f"measured limits: read {limits.read_tb_per_s:.3f} TB/s, copy {limits.copy_tb_per_s:.3f} TB/s, "
        f"bfloat16 matmul {limits.matmul_tflop_per_s:.1f} TFLOP/s"
    )


def header() -> str:
    """The names of the columns."""
    return _cells([name for name, _ in COLUMNS])


def row_text(row: Row) -> str:
    """The line of a row; its width depends on the shape's text."""
    if row.figure is None or not isinstance(row.measured, Measured):
        error = row.measured if isinstance(row.measured, Exception) else RuntimeError("no figure")
        return f"{row.case.id:<{COLUMNS[0][1]}} failed: {first_line(error)}"
    note = "  (host-bound: the device was waiting)" if row.measured.is_host_bound else ""
    return _cells(
        [
            row.case.id,
            f"{row.measured.microseconds:.2f}",
            f"{row.figure.value:.3f} {row.figure.unit}",
            f"{row.figure.percent_of_limit:.1f}%",
            _ratio(row.xla_ratio),
            _ratio(row.jax_ratio),
            target_text(row.case.target, row.figure),
            row.case.shape + note,
        ]
    )


def versus_jax_text(line: dict[str, Any], target: Target) -> str:
    """The row of the worst ratio to jax's own kernel."""
    verdict = "met" if line["value"] >= target.amount else "missed"
    values = [line["id"], "", f"{line['value']:.3f} ratio", "", "", _ratio(line["value"])]
    return _cells(
        [*values, f">= {target.amount:g} {verdict}", "the worst of the cases beside jax's own kernel"]
    )


def ratio_text(line: dict[str, Any]) -> str:
    """The row of a time relative to that of another case."""
    values = [line["id"], "", f"{line['value']:.3f} ratio", f"{line['percent_of_limit']:.1f}%", "", "", ""]
    return _cells([*values, "the time relative to that of the case in bfloat16"])


def target_text(target: Target | None, figure: Figure) -> str:
    """The target of a row, and whether the row reaches it."""
    if target is None:
        return ""
    value = figure.percent_of_limit if target.unit == "%" else figure.value
    is_met: Callable[[float, float], bool] = float.__le__ if target.unit == "us" else float.__ge__
    verdict = "met" if is_met(float(value), float(target.amount)) else "missed"
    return f"{'<=' if target.unit == 'us' else '>='} {target.amount:g} {target.unit} {verdict}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _cells(values: list[str]) -> str:
    """Joins cells to a line, with names and shapes aligned left and numbers right."""
    is_text = {"case", "target", "shape"}
    cells = [
        f"{value:<{width}}" if name in is_text else f"{value:>{width}}"
        for (name, width), value in zip(COLUMNS, values, strict=True)
    ]
    return "  ".join(cells).rstrip()
