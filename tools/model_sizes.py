"""Prints a Markdown table of what models take of a GPU, and of how many tokens are cached in the rest.

    python -m tools.model_sizes DIRECTORY...    directories with a config.json; weights are not read

It is arithmetic from the shapes of weights and cache, as the engine's own memory plan does it, with
WORKSPACE_BYTES for a step's intermediate arrays: a start prints the real line.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from jinfer.execution.kv_cache import KVLayout
from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.weights.hub import read_json
from jinfer.weights.params import num_bytes

GIB = 2**30
GPUS = {"L4, 24 GB": 22.5, "L40S, 48 GB": 44.5, "H100, 80 GB": 79.6, "H200, 141 GB": 139.8}
"""GiB that the driver shows."""
UTILIZATION = (
    0.95 * 0.9
)  # XLA_PYTHON_CLIENT_MEM_FRACTION of the images in deploy/, and gpu_memory_utilization
WORKSPACE_BYTES = 2 * GIB


def main(arguments: Sequence[str]) -> int:
    """Prints the table, in order of the weights' bytes."""
    parser = argparse.ArgumentParser(prog="python -m tools.model_sizes")
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    logging.getLogger("jinfer").setLevel(logging.ERROR)
    models = [(path.name, _model(path)) for path in parser.parse_args(arguments).directories]
    print(f"| model | weights, GB | cache, KB a token | {' | '.join(GPUS)} |")
    print("|---" * (3 + len(GPUS)) + "|")
    for name, model in sorted(models, key=lambda pair: num_bytes(pair[1].abstract_params)):
        print(_row(name, model))
    return 0


def _model(directory: Path) -> Model:
    return build_model(read_model_config(read_json(directory / "config.json")), jnp.dtype("bfloat16"), "xla")


def _row(name: str, model: Model) -> str:
    weight_bytes = num_bytes(model.abstract_params)
    token_bytes = KVLayout.of(model.config, page_size=1, dtype=jnp.dtype("bfloat16")).page_bytes
    cells = [
        _num_tokens(gib * GIB * UTILIZATION - WORKSPACE_BYTES - weight_bytes, token_bytes)
        for gib in GPUS.values()
    ]
    return f"| {name} | {weight_bytes / 1e9:.1f} | {token_bytes / 1e3:.0f} | {' | '.join(cells)} |"


def _num_tokens(left_bytes: float, token_bytes: int) -> str:
    thousands = int(left_bytes / token_bytes / 1000)
    return f"{thousands:,},000" if thousands > 0 else "-"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
