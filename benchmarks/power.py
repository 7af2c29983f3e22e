"""Whether power is what limits a workload: the same instructions on numbers that draw less.

    python -m benchmarks.power CONFIG_DIRECTORY [WORKLOAD ...] [--repeats 5]
    python -m benchmarks.power CONFIG_DIRECTORY [WORKLOAD ...] --engine [--set NAME=VALUE ...]

Runs the decode step of a workload (b64-1024, b256-512) again and again, with random weights and a random
cache as engines have them, then with zeros in the cache, then with zeros everywhere: the same instructions
and bytes, but fewer bits that change on their way. With `--engine` it is the workload (mixed256 as well) that
runs, as `jinfer bench` runs it, on random weights and then, in the same engine, on zeros, with which keys and
values are zeros too.

Prints a line of JSON for each: what was measured, and the clock and the power that `nvidia-smi` shows
meanwhile. Where zeros are faster at a higher clock, power is the limit, and not the kernels or the host.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.ablation.child import OUTPUT_LEN, SMALL
from benchmarks.ablation.decode_step import DecodeStep, StepChoices
from benchmarks.compare.workloads import comparable_workload
from jinfer.bench import measure as bench
from jinfer.bench.opening import OpenBench, Source, assigned_options, machine_limits, open_bench
from jinfer.bench.workloads import Workload
from jinfer.errors import ConfigError, JinferError
from jinfer.execution.device_memory import delete_arrays
from jinfer.models.model import Model
from jinfer.weights.params import Params

DATA: Mapping[str, tuple[bool, bool]] = {  # name: (weights are zeros, cache is zeros)
    "random": (False, False),
    "zero cache": (False, True),
    "zeros": (True, True),
}
INTERVAL_MS = 50
FIGURES = "clocks.sm", "power.draw.instant"


def main() -> int:
    """Measures each workload with each kind of data, and returns the exit status. An error of jinfer's is
    printed without a traceback."""
    options = _parsed()
    try:
        for line in (_engine_lines if options.engine else _step_lines)(options):
            print(json.dumps({"config": options.config.name, **line}), flush=True)
    except JinferError as error:
        print(f"benchmarks.power: {error}", file=sys.stderr)
        return 1
    return 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="a directory with a config.json")
    parser.add_argument("workloads", nargs="*", default=["b64-1024", "b256-512"])
    parser.add_argument(
        "--repeats", type=int, default=5, help="of 56 steps each, of which the first warms up"
    )
    parser.add_argument(
        "--engine", action="store_true", help="run the workloads, and not only their decode steps"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="options of the engine"
    )
    options = parser.parse_args()
    if options.set and not options.engine:
        parser.error("--set is for an engine, and steps alone have none; add --engine")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats} must be at least 1")
    try:
        options.workloads = [comparable_workload(name, OUTPUT_LEN) for name in options.workloads]
        options.engine_options = assigned_options(options.set)
    except ConfigError as error:
        parser.error(str(error))
    if not (options.config / "config.json").is_file():
        parser.error(f"{options.config}: there is no config.json in it")
    return options


def _step_lines(options: argparse.Namespace) -> Iterator[dict[str, float | str]]:
    with Source(config=options.config).start(SMALL) as parts:
        for workload in options.workloads:
            for line in measure(parts.loaded.model, parts.loaded.params, workload, options.repeats):
                yield {"workload": workload.name, **line}


def _engine_lines(options: argparse.Namespace) -> Iterator[dict[str, float | str]]:
    source, machine, show_progress = Source(config=options.config), machine_limits(), sys.stderr.isatty()
    with open_bench(source, options.engine_options, machine, options.repeats, 0, show_progress) as opened:
        yield from measure_engine(opened, options.workloads)


def measure_engine(opened: OpenBench, workloads: Sequence[Workload]) -> Iterator[dict[str, float | str]]:
    """Yields a line for each workload on the engine's weights, and then on zeros: value, unit and limit of
    `jinfer bench`, and the medians of power in watts and of the clock in MHz where nvidia-smi runs. The
    engine keeps the zeros."""
    for data in ("random", "zeros"):
        if data == "zeros":
            executor = opened.parts.executor
            executor.params = _into_zeros(executor.params)
        for workload in workloads:
            shown: dict[str, list[float]] = {}
            with watched(shown):
                result = bench.measure(opened.bench, workload)
            yield {"workload": workload.name, "data": data, **result.line(), **_busiest(shown)}


def _into_zeros(params: Params) -> Params:
    """Deletes the weights and returns zeros of their shapes; there is no memory for both."""
    shapes = jax.eval_shape(lambda: params)
    delete_arrays(params)
    return jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), shapes)


def measure(
    model: Model, params: Params, workload: Workload, repeats: int
) -> Iterator[dict[str, float | str]]:
    """Yields a line for each kind of data, with one executable for all."""
    step = DecodeStep(model, params, workload, StepChoices())
    compiled = step.compile()
    for name, (are_weights_zeros, is_cache_zeros) in DATA.items():
        of_run = jax.tree.map(jnp.zeros_like, params) if are_weights_zeros else params
        times, shown = [], {}
        for repeat in range(repeats):
            with watched(shown if repeat else {}):
                times.append(step.time_ms(compiled, of_run, has_zero_cache=is_cache_zeros))
        yield {"data": name, "step_ms": round(statistics.median(times[1:] or times), 3), **_busiest(shown)}


@contextlib.contextmanager
def watched(shown: dict[str, list[float]]) -> Iterator[None]:
    """Appends nvidia-smi's figures of the first GPU to the lists in `shown`; does nothing where there is no
    nvidia-smi."""
    command = "nvidia-smi", "-i", "0", f"--query-gpu={','.join(FIGURES)}", "--format=csv,noheader,nounits"
    try:
        process = subprocess.Popen([*command, f"--loop-ms={INTERVAL_MS}"], stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        said, _ = process.communicate()
        for line in said.splitlines():
            values = line.split(",")
            if len(values) == len(FIGURES):
                for figure, value in zip(FIGURES, values, strict=True):
                    shown.setdefault(figure, []).append(float(value))


def _busiest(shown: Mapping[str, list[float]]) -> dict[str, float]:
    """Returns medians over the half of the samples with the most power: filling the state draws little."""
    if not shown:
        return {}
    clocks, watts = (shown[figure] for figure in FIGURES)
    busiest = sorted(zip(watts, clocks, strict=True))[len(watts) // 2 :]
    return {
        "power_w": statistics.median(watt for watt, _ in busiest),
        "sm_clock_mhz": statistics.median(clock for _, clock in busiest),
    }


if __name__ == "__main__":
    sys.exit(main())
