"""How many tokens fit into a KV cache of 8 bits, beside one in the type of the activations.

    python -m benchmarks.kv_capacity CONFIG_DIRECTORY [--record]

Plans the memory of this device as a start does, with the workspace of the largest steps as XLA compiles them,
for each type of the cache, and prints a line of JSON for each in 8 bits. No weights are made.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, append, circumstances, results_file
from jinfer.config import EngineConfig
from jinfer.execution.device_memory import DeviceMemory
from jinfer.execution.memory import MemoryNeeds, plan_memory
from jinfer.execution.memory_plan import MemoryPlan
from jinfer.execution.workspace import probe
from jinfer.loading import resolve_model
from jinfer.placement import default_placement
from jinfer.weights.hub import read_json
from jinfer.weights.params import num_bytes

IDS = {"int8": "kv8-capacity", "fp8_e4m3": "kv8-capacity-fp8"}
FILE_NAME = "quantization.jsonl"
LIMIT = 2.0  # half the bytes of bfloat16, were there no scales


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 where every type was planned."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kv_capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, help="a directory with a config.json")
    parser.add_argument("--record", action="store_true", help="append to the results of this device")
    options = parser.parse_args(arguments)
    raw = read_json(options.config / "config.json")
    tokens = {dtype: planned(raw, kv_cache_dtype=dtype).num_cached_tokens for dtype in ("auto", *IDS)}
    shared = circumstances(f"python -m benchmarks.kv_capacity {options.config} --record")
    lines = [{**line, **shared} for line in capacity_lines(tokens)]
    for line in lines:
        print(json.dumps(line), flush=True)
    if options.record:
        append(results_file(RESULTS, FILE_NAME), lines)
    return 0


def planned(raw: dict[str, Any], **options: Any) -> MemoryPlan:
    """The use of this device's memory by an engine of random bfloat16 weights with these options."""
    config, placement = EngineConfig(dtype="bfloat16", dummy_weights=True, **options), default_placement()
    resolved = resolve_model(raw, params=None, tokenizer=None, config=config, placement=placement)
    model, limits = resolved.model, resolved.chosen_limits
    needs = MemoryNeeds.of(
        model.config,
        limits,
        resolved.dtype,
        weight_bytes=num_bytes(model.abstract_params),
        step_bytes=probe(model, limits, resolved.dtype, placement, config.compiler),
    )
    return plan_memory(config.cache, limits, DeviceMemory.of(placement.device), needs)


def capacity_lines(tokens: dict[str, int]) -> list[dict[str, Any]]:
    """The tokens of each type in 8 bits relative to "auto"."""
    ratios = {name: tokens[dtype] / tokens["auto"] for dtype, name in IDS.items()}
    return [
        {
            "id": name,
            "value": round(ratio, 3),
            "unit": "ratio",
            "limit": LIMIT,
            "percent_of_limit": round(100 * ratio / LIMIT, 1),
        }
        for name, ratio in ratios.items()
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
