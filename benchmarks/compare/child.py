"""One engine in a process of its own: reads what to measure as JSON from stdin, and prints a line for each
workload."""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.compare.engines import ENGINES
from benchmarks.compare.workloads import comparable_workload, described, measure


def main(request: dict[str, Any]) -> None:
    """Prints a line for each workload, also for one that fails. An engine that does not start is an error."""
    workloads = [comparable_workload(name, request["output_len"]) for name in request["workloads"]]
    config = Path(request["config"])
    vocab_size = json.loads((config / "config.json").read_text())["vocab_size"]
    longest = max(workload.longest for workload in workloads) + 1
    generate = ENGINES[request["engine"]].open(config, longest, request["options"])
    for workload in workloads:
        try:
            figure = measure(
                generate, workload, vocab_size=vocab_size, repeats=request["repeats"], seed=request["seed"]
            )
            answer = described(figure)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"workload": workload.name, **answer}), flush=True)


if __name__ == "__main__":
    main(json.load(sys.stdin))
