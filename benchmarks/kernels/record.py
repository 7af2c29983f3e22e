"""Rows as lines of JSON, and the file that keeps them."""

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import jaxlib

from benchmarks.kernels.case import limit_us
from benchmarks.kernels.limits import Limits
from benchmarks.kernels.run import Measured, Row
from pallas_kernels.device import target_device

RESULTS = Path(__file__).resolve().parents[1] / "results"
REPOSITORY = RESULTS.parents[1]
COMMIT_VARIABLE = "KERNELS_COMMIT"  # for a machine that has the files without their history, or with another
# The worst ratio of the cases that `decode-vs-jax` stands for. Its limit is the ratio of a kernel that reads at the
# machine's bandwidth, in that case.
VERSUS_JAX = "decode-vs-jax"


def results_file(results: Path) -> Path:
    """Where the lines of this machine are kept."""
    return results / target_device().file_name / "kernels.jsonl"


def measured_line(row: Row) -> dict[str, Any]:
    """The part of a line that this run found out. KeyError is ours: the row must have a figure."""
    assert row.figure is not None
    return {
        "id": row.case.id,
        "value": _rounded(row.figure.value),
        "unit": row.figure.unit,
        "limit": _rounded(row.figure.limit),
        "percent_of_limit": round(row.figure.percent_of_limit, 1),
    }


def versus_jax_line(rows: list[Row], compared: tuple[str, ...], limits: Limits) -> dict[str, Any] | None:
    """The worst ratio to jax's own kernel; None unless all `compared` cases were measured against it in this run."""
    found = [row for row in rows if row.case.id in compared and row.jax_us is not None and row.jax_ratio is not None]
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


def further_facts(row: Row) -> dict[str, Any]:
    """What `--json` says of a row beside its line."""
    measured = row.measured
    if isinstance(measured, Exception):
        return {"id": row.case.id, "op": row.case.op, "shape": row.case.shape, "error": first_line(measured)}
    assert isinstance(measured, Measured)
    return {
        "op": row.case.op, "shape": row.case.shape, "microseconds": round(measured.microseconds, 3),
        "is_host_bound": measured.is_host_bound, "xla_microseconds": _rounded(row.xla_us),
        "xla_ratio": _rounded(row.xla_ratio), "jax_microseconds": _rounded(row.jax_us),
        "jax_ratio": _rounded(row.jax_ratio), "jax_setting": row.jax_setting,
    }  # fmt: skip


def circumstances(command: str) -> dict[str, Any]:
    """The part of a line that all rows of a run share."""
    versions = {
        "jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": platform.python_version(),
        "driver": _driver(), "device": target_device().kind,
    }  # fmt: skip
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"commit": _commit(), "date": today, "versions": versions, "command": command}


def append(file: Path, lines: list[dict[str, Any]]) -> None:
    """Raises ValueError for lines that claim more than the limit, which something else than the kernel explains; the
    others are kept."""
    possible = [line for line in lines if 0 <= line["percent_of_limit"] <= 100]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in possible)
    refused = [f"{line['id']} ({line['percent_of_limit']}%)" for line in lines if line not in possible]
    if refused:
        raise ValueError(
            f"not recorded, for nothing reaches more than 100% of a limit: {', '.join(refused)}; run again"
        )


def newest_lines(file: Path) -> dict[str, dict[str, Any]]:
    """The last line of each id."""
    lines = map(json.loads, file.read_text().splitlines())
    return {line["id"]: line for line in lines}


def first_line(error: Exception) -> str:
    """What went wrong, short enough for a table."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:160] if text else ''}"


def _rounded(value: float | None) -> float | None:
    """Four significant digits: more than repeats."""
    return None if value is None else float(f"{value:.4g}")


def _commit() -> str | None:
    """What the environment says of it, or the commit of the working tree; None where nobody knows."""
    if COMMIT_VARIABLE in os.environ:
        return os.environ[COMMIT_VARIABLE]
    head = _output("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")
    return head and head + ("+dirty" if _output("git", "-C", str(REPOSITORY), "status", "--porcelain") else "")


def _driver() -> str | None:
    versions = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return versions.splitlines()[0] if versions else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
