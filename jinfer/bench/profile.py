"""A trace of some steps, in which steps, stations and requests have names.

The names are put around an engine's stations for as long as the trace is taken: an engine that is not
profiled does not know of them. A decode step is one CUDA graph in a trace, too, and its kernels are told
apart.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from jinfer.bench.replaced import replaced
from jinfer.bench.session import Session
from jinfer.bench.steady import steady
from jinfer.bench.workloads import Workload
from jinfer.engine.engine import Engine
from jinfer.scheduling.step_plan import StepPlan

STEP = "engine step"
STATIONS = ("schedule", "dispatch", "make_batch", "read")
PROFILED_STEPS = 40


def stations_of(engine: Any) -> dict[str, tuple[Any, str]]:
    """Each of STATIONS, as the object and the attribute that `Engine.step` calls it by."""
    executor = engine.executor
    owners = (
        (engine.scheduler, "schedule"),
        (executor, "dispatch"),
        (executor, "make_batch"),
        (engine, "read"),
    )
    return dict(zip(STATIONS, owners, strict=True))


def profile(session: Session, engine: Engine, workload: Workload, directory: Path) -> None:
    """Writes a trace of up to 40 steps to `directory`, from where the workload is steady."""
    with (
        steady(session, engine, workload),
        named_stations(engine),
        jax.profiler.trace(str(directory), **_quiet()),
    ):
        for number in range(PROFILED_STEPS):
            if not engine.has_work:
                break
            with jax.profiler.StepTraceAnnotation(STEP, step_num=number):
                engine.step()


def _quiet() -> dict[str, Any]:
    """Switches off the trace of Python's own calls, which would cost the host more than its work."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return {"profiler_options": options}


@contextlib.contextmanager
def named_stations(engine: Engine) -> Iterator[None]:
    """Puts a trace annotation around each station, until the end of the block."""
    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in stations_of(engine).items():
            stack.enter_context(replaced(owner, attribute, _named(name, getattr(owner, attribute))))
        yield


def _named(name: str, station: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(station)
    def call(*arguments, **options):
        with jax.profiler.TraceAnnotation(name, **_described(arguments)):
            return station(*arguments, **options)

    return call


def _described(arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Describes the plan that a station is given: the kind of step, its size, and its requests."""
    plan = next((each for each in arguments if isinstance(each, StepPlan)), None)
    if plan is None:
        return {}
    sequences = [*plan.decode.sequences, *(chunk.sequence for chunk in plan.chunks)]
    requests = dict.fromkeys(sequence.request.request_id for sequence in sequences)
    kind = "decode" if plan.is_decode else "mixed"
    # "|" and not ",": the profiler ends a value at a comma
    return {"kind": kind, "rows": plan.num_rows, "tokens": plan.num_tokens, "requests": "|".join(requests)}
