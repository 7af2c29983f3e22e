"""Finds the fastest blocks for the shapes of an op's cases on this machine, and keeps them as data.

    python -m benchmarks.kernels tune OP [--case ID] [--seconds 240]

For each shape the candidates are compiled in parallel and timed one after another; the fastest few are timed
again, at length, beside the choice that is in force. What wins is checked against the reference before it is
kept in `pallas_kernels/<op>/tuned/<device>.json`.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import pallas_kernels
from benchmarks.kernels.case import Case
from benchmarks.kernels.cases import all_cases, selected
from benchmarks.kernels.data import RandomData
from benchmarks.kernels.record import first_line
from benchmarks.kernels.run import MAX_COMPILATIONS, Measured, compile_one, num_calls, time_each
from benchmarks.kernels.timing import QUICK, SMOKE, THOROUGH, Chain
from jinfer.bench.limits import MachineLimits, measure_limits
from pallas_kernels.core.device import target_device

Entry = dict[str, Any]  # see pallas_kernels/core/tuned.py
COMPILE_SHARE = 0.6  # of the time for a shape
NUM_FINALISTS = 4
# An entry as fast as the current choice, within the noise, is stored: it shows that the shape was tuned.
TIE = 1.01
MAX_ERROR = 5e-3  # relative, in the Euclidean norm: what the tests ask of bfloat16


def main(arguments: list[str]) -> int:
    """The exit status: 0 where every shape has a winner, or one that is in force already."""
    options = _options(arguments)
    cases = _cases_by_key(options)
    limits = measure_limits(smoke=options.smoke)
    deadline, num_failed = time.monotonic() + options.seconds, 0
    for i, case in enumerate(cases):
        assert case.tuning is not None
        seconds = (deadline - time.monotonic()) / (len(cases) - i)
        print(f"{case.id}: {len(case.tuning.candidates)} candidates, {max(0, seconds):.0f} s", flush=True)
        entry = sweep(case, limits, seconds, smoke=options.smoke)
        if entry is None:
            num_failed += 1
        elif entry:
            file = options.output / case.tuning.folder / "tuned" / f"{target_device().file_name}.json"
            store(file, case.tuning.function, entry)
    return 1 if num_failed else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernels tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("op", metavar="OP")
    parser.add_argument("--case", action="append", default=[], metavar="ID", help="this case's shape alone")
    parser.add_argument("--seconds", type=float, default=240, help="for all shapes together, about")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument(
        "--output", type=Path, default=Path(pallas_kernels.__file__).parent, metavar="DIRECTORY"
    )
    return parser.parse_args(arguments)


def _cases_by_key(options: argparse.Namespace) -> list[Case]:
    """Returns the op's cases that can be tuned, the first one of each key."""
    try:
        cases = selected(all_cases(smoke=options.smoke), [options.op], options.case)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    found: dict[str, Case] = {}
    for case in cases:
        if case.tuning is not None:
            found.setdefault(json.dumps([case.tuning.function, case.tuning.key], sort_keys=True), case)
    if not found:
        raise SystemExit(f"{options.op} has no blocks to tune; add a Tuning to its cases")
    return list(found.values())


def sweep(case: Case, limits: MachineLimits, seconds: float, *, smoke: bool) -> Entry | None:
    """Returns the winner's entry, {} where the current choice is better than every candidate, None where no
    candidate ran."""
    began = time.monotonic()
    chains = _compiled(case, limits, COMPILE_SHARE * seconds, smoke)
    quick, thorough = (SMOKE, SMOKE) if smoke else (QUICK, THOROUGH)
    time_chains = functools.partial(time_each, case.make, case.num_sets(smoke=smoke))
    times: dict[Any, Measured] = {}
    for blocks, result in time_chains(chains, quick):
        if isinstance(result, Exception):
            print(f"  skipped {blocks}: {first_line(result)}", flush=True)
        else:
            times[blocks] = result
        if time.monotonic() - began > seconds and len(times) >= NUM_FINALISTS:
            print(f"  out of time after {len(times)} of {len(chains)} candidates", flush=True)
            break
    finalists = sorted(times, key=lambda blocks: times[blocks].microseconds)[:NUM_FINALISTS]
    again = {blocks: chains[blocks] for blocks in dict.fromkeys([None, *finalists]) if blocks in chains}
    times = {
        blocks: result for blocks, result in time_chains(again, thorough) if isinstance(result, Measured)
    }
    return _winner(case, times)


def _compiled(case: Case, limits: MachineLimits, seconds: float, smoke: bool) -> dict[Any, Chain | Exception]:
    """Returns the chains that are compiled in time, by their blocks; None stands for the current choice."""
    assert case.tuning is not None
    sets, calls = case.num_sets(smoke=smoke), num_calls(case, limits, smoke=smoke)
    with ThreadPoolExecutor(min(MAX_COMPILATIONS, os.cpu_count() or 1)) as pool:
        options = case.compiler_options
        futures = {
            blocks: pool.submit(compile_one, case.make, case.build(blocks), sets, calls, options)
            for blocks in (None, *case.tuning.candidates)
        }
        wait(futures.values(), timeout=max(0, seconds))
        pool.shutdown(cancel_futures=True)  # waits for those that have begun
    chains = {blocks: future.result() for blocks, future in futures.items() if not future.cancelled()}
    if len(chains) < len(futures):
        print(f"  {len(futures) - len(chains)} candidates were not compiled in time", flush=True)
    return chains


def _winner(case: Case, times: dict[Any, Measured]) -> Entry | None:
    """Returns the fastest candidate whose result is right."""
    assert case.tuning is not None
    current = times.pop(None, None)
    beside = "" if current is None else f", the choice in force {current.microseconds:.2f}"
    for blocks in sorted(times, key=lambda blocks: times[blocks].microseconds):
        microseconds = times[blocks].microseconds
        if current is not None and microseconds > TIE * current.microseconds:
            print(
                f"  the choice in force stays: the best candidate takes {microseconds:.2f} us{beside}",
                flush=True,
            )
            return {}
        error = relative_error(case, blocks)
        if error < MAX_ERROR:
            print(f"  {microseconds:.2f} us{beside}: {blocks}, relative error {error:.1e}", flush=True)
            key = dict(case.tuning.key)
            return {"key": key, "blocks": asdict(blocks), "microseconds": float(f"{microseconds:.4g}")}
        print(f"  WRONG, and not kept: {blocks}, relative error {error:.1e}", flush=True)
    return None


def relative_error(case: Case, blocks: Any) -> float:
    """Returns the largest |got - wanted| / |wanted| of the arrays that a call returns; NaN where a result
    holds NaN."""
    inputs = case.make(RandomData(1), 1)
    got, wanted = (
        jax.jit(step)(inputs.carry, inputs.sets[0]) for step in (case.build(blocks), case.reference)
    )
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True))
    floating = [(a, b) for a, b in pairs if jnp.issubdtype(a.dtype, jnp.floating)]
    # A sampled token is all that its call returns.
    errors = [float(_distance(a, b)) for a, b in floating or pairs]
    return max(errors, key=lambda error: float("inf") if error != error else error)


@jax.jit
def _distance(got: jax.Array, wanted: jax.Array) -> jax.Array:
    got, wanted = got.astype(jnp.float32), wanted.astype(jnp.float32)
    return jnp.sqrt(jnp.sum((got - wanted) ** 2) / jnp.sum(wanted**2))


def store(file: Path, function: str, entry: Entry) -> None:
    """Adds the entry, which replaces an older one of the same key."""
    functions = json.loads(file.read_text()) if file.is_file() else {}
    others = [other for other in functions.get(function, []) if other["key"] != entry["key"]]
    functions[function] = [*others, entry]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(tuned_text(functions))


def tuned_text(functions: Mapping[str, list[Entry]]) -> str:
    """Formats one entry per line, functions by name and entries by key, so that a changed entry is one line
    of a diff."""
    parts = []
    for function in sorted(functions):
        entries = sorted(
            functions[function], key=lambda entry: [(k, str(type(v)), v) for k, v in entry["key"].items()]
        )
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
        parts.append(f"  {json.dumps(function)}: [\n{lines}\n  ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"
