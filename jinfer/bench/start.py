"""The time that an engine takes from nothing to ready: a new process each time, with an empty compilation
cache and again with what that left in it.

`python -m jinfer.bench.start` is that process: it reads its options as JSON from stdin, starts an engine and
says so.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinfer.bench.opening import Source, work_of
from jinfer.bench.results import Result
from jinfer.errors import EngineError
from jinfer.progress import collected_times, progress_bar

WITHOUT_CACHE_OF_JAX = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # which may not be empty
READY = "ready "  # begins the line that says so


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process until its engine was ready, and the part of start_engine in
    them."""

    seconds: float
    engine_s: float
    filled_bytes: int  # weights and cache, which a start writes at least once
    stages_s: Mapping[str, float]  # parts of engine_s that the engine logs


def measure_starts(source: Source, options: Mapping[str, Any]) -> tuple[Start, Start]:
    """A start with an empty compilation cache, then one with a warm one. Uses no device in this process."""
    with (
        tempfile.TemporaryDirectory(prefix="jinfer-bench-cache-") as cache,
        progress_bar("starting", total=2, enabled=options["progress"]) as bar,
    ):
        cold = start_once(source, options, Path(cache))
        bar.update()
        warm = start_once(source, options, Path(cache))
        bar.update()
    return cold, warm


def start_once(source: Source, options: Mapping[str, Any], cache: Path) -> Start:
    """Raises EngineError with the end of what the process said, where it did not get ready."""
    environment = {**os.environ, **WITHOUT_CACHE_OF_JAX, "CUDA_CACHE_PATH": str(cache / "cuda")}
    options = {**options, "compilation_cache_dir": str(cache / "xla")}
    config = None if source.config is None else str(source.config)
    request = {"source": {"model": source.model, "config": config}, "options": options}
    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "jinfer.bench.start"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process, process.stdin as stdin:
            stdin.write(json.dumps(request))
            stdin.close()
            ready = next((line for line in process.stdout if line.startswith(READY)), None)
            seconds = time.perf_counter() - began
            process.stdout.read()
        if ready is None or process.returncode:
            errors.seek(0)
            raise EngineError(f"an engine did not start: {errors.read().strip()[-1000:]}")
    return Start(seconds, **json.loads(ready.removeprefix(READY)))


def start_results(starts: tuple[Start, Start], prefix: str, read_tb_per_s: float) -> list[Result]:
    """`start-cold` and `start-warm`, beside the time in which the machine could write weights and cache
    once."""
    return [
        Result(
            f"{prefix}-start-{name}",
            start.seconds,
            "s",
            start.filled_bytes / (read_tb_per_s * 1e12),
            details={
                "engine_s": round(start.engine_s, 2),
                **{f"{name}_s": s for name, s in start.stages_s.items()},
            },
        )
        for name, start in zip(("cold", "warm"), starts, strict=True)
    ]


def main() -> None:
    """Starts an engine, says on a line of stdout that it is ready, and closes it."""
    request = json.load(sys.stdin)
    config = request["source"]["config"]
    source = Source(request["source"]["model"], None if config is None else Path(config))
    began = time.perf_counter()
    with collected_times() as times, source.start({**request["options"], "progress": False}) as parts:
        engine_s = time.perf_counter() - began
        work = work_of(parts)
        weight_bytes = work.weight_bytes + sum(experts.num_bytes for experts in work.experts)
        cache_bytes = parts.limits.num_pages * parts.limits.page_size * work.kv_bytes(1, 1)
        start = {
            "engine_s": engine_s,
            "filled_bytes": weight_bytes + cache_bytes,
            "stages_s": {name.replace(" ", "_"): round(seconds, 2) for name, seconds in times.items()},
        }
        print(READY + json.dumps(start), flush=True)


if __name__ == "__main__":
    main()
