"""Results as lines of JSON, the circumstances they were measured in, and the file that keeps them."""

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax
import jaxlib

from pallas_kernels.core.device import target_device

REPOSITORY = Path(__file__).resolve().parents[2]
COMMIT_VARIABLE = "KERNELS_COMMIT"  # for a machine that has the files without their history, or with another


def results_file(results: Path, name: str) -> Path:
    """Where the lines of this machine are kept: results/<device>/<name>."""
    return results / target_device().file_name / name


def circumstances(command: str) -> dict[str, Any]:
    """The part of a line that all results of a run share."""
    versions = {
        "jax": jax.__version__, "jaxlib": jaxlib.__version__, "python": platform.python_version(),
        "driver": _driver(), "device": target_device().kind,
    }  # fmt: skip
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"commit": _commit(), "date": today, "versions": versions, "command": command}


def append(file: Path, lines: list[dict[str, Any]]) -> None:
    """Raises ValueError for lines that claim more than the limit, which something else than speed explains; the others
    are kept."""
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


def rounded(value: float) -> float:
    """Four significant digits: more than repeats."""
    return float(f"{value:.4g}")


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
