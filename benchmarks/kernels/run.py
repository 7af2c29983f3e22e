"""Measures cases: compiles everything first, in parallel, and then times one thing after another on an idle
machine."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from benchmarks.kernels.case import Case, Figure, Make, figure, limit_us
from benchmarks.kernels.data import RandomData, ShapesOnly, compile_generators
from benchmarks.kernels.timing import QUICK, SMOKE, THOROUGH, Chain, Effort, Step, compile_chain
from jinfer.bench.limits import MachineLimits

CHAIN_US = 1000.0  # long enough to hide the dispatch of the next
SHORTEST_CALL_US = 4.0
MIN_CALLS, MAX_CALLS = 8, 128  # XLA captures no graph of less than 5 kernels
MAX_COMPILATIONS = 16
# The options of jinfer's own steps. Without them XLA tunes a GEMM for seconds, and gains little.
XLA_OPTIONS: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_enable_cublaslt": True}

Name = TypeVar("Name")
Job = tuple[Make, Step, int, int, dict[str, str | bool] | None]  # the arguments of `compile_one`


@dataclass(frozen=True)
class Measured:
    """The time of one call; `is_host_bound` where the host takes a part of it."""

    microseconds: float
    is_host_bound: bool


@dataclass(frozen=True)
class Row:
    """A case and its results. `jax_setting` names the fastest setting of jax's kernel."""

    case: Case
    measured: Measured | Exception
    figure: Figure | None = None
    xla_us: float | None = None
    jax_us: float | None = None
    jax_setting: str | None = None

    @property
    def xla_ratio(self) -> float | None:
        """The speed relative to XLA's."""
        return self._ratio(self.xla_us)

    @property
    def jax_ratio(self) -> float | None:
        """The speed relative to that of jax's own kernel."""
        return self._ratio(self.jax_us)

    def _ratio(self, microseconds: float | None) -> float | None:
        if microseconds is None or isinstance(self.measured, Exception):
            return None
        return microseconds / self.measured.microseconds


def measure(
    cases: list[Case], limits: MachineLimits, *, smoke: bool, progress: Callable[[str], None]
) -> Iterator[Row]:
    """Yields a row for each case as soon as it is measured."""
    progress(f"compiling {len(cases)} cases")
    compiled = compile_cases(cases, limits, smoke=smoke)
    for case in cases:
        yield _row(case, compiled.pop(case.id), limits, smoke)


def compile_cases(
    cases: list[Case], limits: MachineLimits, *, smoke: bool
) -> dict[str, dict[str, dict[str, Chain | Exception]]]:
    """Compiles all chains. Returns them by the case's id; by "pallas", "xla" or "jax"; and by the setting, ""
    where there is only one."""
    jobs: dict[tuple[str, str, str], Job] = {}
    for case in cases:
        calls = num_calls(case, limits, smoke=smoke)
        sets = case.num_sets(smoke=smoke)
        jobs[case.id, "pallas", ""] = case.make, case.build(None), sets, calls, case.compiler_options
        if case.xla is not None:
            options = case.compiler_options or XLA_OPTIONS
            jobs[case.id, "xla", ""] = case.make, case.xla, sets, calls, options
        if case.jax is not None:
            for setting, step in case.jax.steps.items():
                jobs[case.id, "jax", setting] = case.jax.make, step, sets, calls, None
    compiled: dict[str, dict[str, dict[str, Chain | Exception]]] = {}
    for (name, program, setting), chain in zip(jobs, compile_all(list(jobs.values())), strict=True):
        compiled.setdefault(name, {}).setdefault(program, {})[setting] = chain
    return compiled


def compile_all(jobs: list[Job]) -> list[Chain | Exception]:
    """Compiles the chains in parallel."""
    with ThreadPoolExecutor(min(MAX_COMPILATIONS, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda job: compile_one(*job), jobs))


def compile_one(
    make: Make, step: Step, num_sets: int, num_calls: int, compiler_options: dict[str, str | bool] | None
) -> Chain | Exception:
    """Returns the chain, or the error of its compilation."""
    try:
        shapes = make(ShapesOnly(), num_sets)
        compile_generators(shapes)
        return compile_chain(step, shapes, num_calls, compiler_options)
    except Exception as error:
        return error


def num_calls(case: Case, limits: MachineLimits, *, smoke: bool) -> int:
    """The number of calls of a chain: as many as last CHAIN_US at the limit, with every set used equally
    often."""
    sets = case.num_sets(smoke=smoke)
    if smoke:
        return sets
    least_us = max(SHORTEST_CALL_US, limit_us(case.work, case.limit, limits)[0])
    calls = max(MIN_CALLS, min(MAX_CALLS, math.ceil(CHAIN_US / least_us)))
    return math.ceil(calls / sets) * sets


def time_each(
    make: Make, num_sets: int, chains: Mapping[Name, Chain | Exception], effort: Effort
) -> Iterator[tuple[Name, Measured | Exception]]:
    """Times each chain in turn, on the same inputs."""
    inputs = None
    for name, chain in chains.items():
        try:
            if isinstance(chain, Exception):
                raise chain
            inputs = make(RandomData(0), num_sets) if inputs is None else inputs
            timing = chain.time(inputs, effort)
            inputs = timing.inputs
            yield name, Measured(timing.microseconds, timing.is_host_bound)
        except Exception as error:
            inputs = None  # a run that failed may have taken the carry with it
            yield name, error


def fastest(results: Mapping[str, Measured | Exception]) -> tuple[str | None, float | None]:
    """Returns the name and the microseconds of the fastest chain that ran."""
    times = {name: result.microseconds for name, result in results.items() if isinstance(result, Measured)}
    best = min(times, key=times.__getitem__, default=None)
    return best, None if best is None else times[best]


def _row(
    case: Case, chains: dict[str, dict[str, Chain | Exception]], limits: MachineLimits, smoke: bool
) -> Row:
    sets, effort = case.num_sets(smoke=smoke), SMOKE if smoke else THOROUGH
    ours = dict(time_each(case.make, sets, chains["pallas"], effort))[""]
    if isinstance(ours, Exception):
        return Row(case, ours)
    effort = SMOKE if smoke else QUICK
    _, xla_us = fastest(dict(time_each(case.make, sets, chains.get("xla", {}), effort)))
    row = Row(case, ours, figure(case, ours.microseconds, limits), xla_us)
    if case.jax is None:
        return row
    jax_setting, jax_us = fastest(dict(time_each(case.jax.make, sets, chains["jax"], effort)))
    return replace(row, jax_us=jax_us, jax_setting=jax_setting)
