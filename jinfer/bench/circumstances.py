"""The circumstances that results were measured in."""

import datetime
import platform
import subprocess
from typing import Any

import jax
import jaxlib

from jinfer.placement import default_placement


def circumstances(command: str) -> dict[str, Any]:
    """The part of a line that all results of a run share. `command` measures the same again."""
    versions = {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "driver": _driver(),
        "device": default_placement().device.device_kind,
    }
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "versions": versions, "command": command}


def output_of(*command: str) -> str | None:
    """The output of a command; None where it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _driver() -> str | None:
    versions = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return versions.splitlines()[0] if versions else None
