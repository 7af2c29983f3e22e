"""The lines of JSON that are recorded for rows."""

from pathlib import Path
from typing import Any

from benchmarks.kernels.case import KERNELS_FILE, limit_us
from benchmarks.kernels.run import Measured, Row
from jinfer.bench.limits import MachineLimits
from jinfer.bench.results import rounded

RESULTS = Path(__file__).resolve().parents[1] / "results"
FILE_NAME = KERNELS_FILE
RATIOS_FILE_NAME = "quantization.jsonl"
# The worst ratio of the cases that `decode-vs-jax` stands for. Its limit is the ratio of a kernel that reads
# at the machine's bandwidth, in that case.
VERSUS_JAX = "decode-vs-jax"


def measured_line(row: Row) -> dict[str, Any]:
    """The part of a line that this run measured. Raises KeyError for a row without a figure, which is a
    bug."""
    assert row.figure is not None
    return {
        "id": row.case.id,
        "value": _rounded(row.figure.value),
        "unit": row.figure.unit,
        "limit": _rounded(row.figure.limit),
        "percent_of_limit": round(row.figure.percent_of_limit, 1),
    }


def versus_jax_line(
    rows: list[Row], compared: tuple[str, ...], limits: MachineLimits
) -> dict[str, Any] | None:
    """The worst ratio to jax's own kernel; None unless all `compared` cases were measured against it in this
    run."""
    found = [
        row
        for row in rows
        if row.case.id in compared and row.jax_us is not None and row.jax_ratio is not None
    ]
    if not found or {row.case.id for row in found} != set(compared):
        return None
    worst = min(found, key=lambda row: row.jax_ratio or 0)
    assert worst.jax_us is not None
    least_us, _ = limit_us(worst.case.work, worst.case.limit, limits)
    ratio, limit = worst.jax_ratio or 0, worst.jax_us / least_us
    return {
        "id": VERSUS_JAX,
        "value": _rounded(ratio),
        "unit": "ratio",
        "limit": _rounded(limit),
        "percent_of_limit": round(100 * ratio / limit, 1),
    }


def ratio_lines(rows: list[Row], limits: MachineLimits) -> list[dict[str, Any]]:
    """The ratios of cases that were measured beside theirs in this run. The limit of one is the ratio of a
    kernel that takes no longer than the machine has to."""
    measured = {row.case.id: row.measured for row in rows if isinstance(row.measured, Measured)}
    lines = []
    for row in rows:
        ratio = row.case.ratio
        if ratio is None or row.case.id not in measured or ratio.beside not in measured:
            continue
        microseconds, beside_us = measured[row.case.id].microseconds, measured[ratio.beside].microseconds
        least_us, _ = limit_us(row.case.work, row.case.limit, limits)
        lines.append(
            {
                "id": ratio.id,
                "value": _rounded(microseconds / beside_us),
                "unit": "ratio",
                "limit": _rounded(least_us / beside_us),
                "percent_of_limit": round(100 * least_us / microseconds, 1),
            }
        )
    return lines


def further_facts(row: Row) -> dict[str, Any]:
    """The entries that `--json` prints of a row besides its line."""
    measured = row.measured
    if isinstance(measured, Exception):
        return {"id": row.case.id, "op": row.case.op, "shape": row.case.shape, "error": first_line(measured)}
    assert isinstance(measured, Measured)
    return {
        "op": row.case.op,
        "shape": row.case.shape,
        "microseconds": round(measured.microseconds, 3),
        "is_host_bound": measured.is_host_bound,
        "xla_microseconds": _rounded(row.xla_us),
        "xla_ratio": _rounded(row.xla_ratio),
        "jax_microseconds": _rounded(row.jax_us),
        "jax_ratio": _rounded(row.jax_ratio),
        "jax_setting": row.jax_setting,
    }


def first_line(error: Exception) -> str:
    """The error of a row, short enough for a table."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160] if text else ''}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)
