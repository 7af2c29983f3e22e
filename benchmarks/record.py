"""Results that are kept: lines of JSON with the commit that they were measured at, and the files that have
them.

An id begins with a short name of the model: 8b is Qwen3-8B, 06b is Qwen3-0.6B.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from jinfer.bench.circumstances import circumstances as measured_in
from jinfer.bench.circumstances import output_of
from pallas_kernels.core.device import target_device

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
ENGINE_FILE = "engine.jsonl"
COMMIT_VARIABLE = "KERNELS_COMMIT"  # for a machine that has the files without their history, or with another
QWEN3 = re.compile(r"qwen3-(\d+)(?:-(\d+))?b(?=-(?!a\d+b\b)|$)")
PREFILL = re.compile(r"-prefill-32x2048$")
Line = dict[str, Any]


def results_file(results: Path, name: str) -> Path:
    """The file of this machine's lines: results/<device>/<name>."""
    return results / target_device().file_name / name


def circumstances(command: str) -> Line:
    """The part of a line that all results of a run share."""
    return {"commit": commit(), **measured_in(command)}


def short_id(name: str) -> str:
    """The id that a result of `jinfer bench` is kept under: qwen3-8b-prefill-32x2048 -> 8b-prefill."""
    return PREFILL.sub("-prefill", QWEN3.sub(lambda found: f"{found[1]}{found[2] or ''}b", name, count=1))


def kept_line(line: Line) -> Line:
    """A line of `jinfer bench` with its short id, and with the commit before the date."""
    first = ("id", "value", "unit", "limit", "percent_of_limit")
    others = {name: value for name, value in line.items() if name not in first}
    return {
        "id": short_id(line["id"]),
        **{name: line[name] for name in first[1:]},
        "commit": commit(),
        **others,
    }


def append(file: Path, lines: list[Line]) -> None:
    """Appends the lines. Raises ValueError for lines above their limit, which are wrong measurements, after
    it has appended the others."""
    possible = [line for line in lines if 0 <= line["percent_of_limit"] <= 100]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in possible)
    refused = [f"{line['id']} ({line['percent_of_limit']}%)" for line in lines if line not in possible]
    if refused:
        raise ValueError(
            f"not recorded, for nothing reaches more than 100% of a limit: {', '.join(refused)}; run again"
        )


def newest_lines(file: Path) -> dict[str, Line]:
    """The last line of each id."""
    lines = map(json.loads, file.read_text().splitlines())
    return {line["id"]: line for line in lines}


def commit() -> str | None:
    """The commit that the environment names, or that of the working tree; None where there is neither."""
    if COMMIT_VARIABLE in os.environ:
        return os.environ[COMMIT_VARIABLE]
    head = output_of("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")
    return head and head + (
        "+dirty" if output_of("git", "-C", str(REPOSITORY), "status", "--porcelain") else ""
    )
