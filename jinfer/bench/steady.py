"""An engine brought to where a workload is typical, so that a few of its steps can be looked at."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.bench.replaced import replaced
from jinfer.bench.session import Session
from jinfer.bench.workloads import Lengths, Measure, Workload, random_prompts
from jinfer.engine.engine import Engine
from jinfer.execution.device_state import DeviceState
from jinfer.scheduling.step_plan import StepPlan

STEPS_BEFORE_RATE = 50  # of a workload whose requests come and go
TOKENS_BEFORE_TPOT = 3  # each request has so many, and so all decode
REPLAYED_STEPS = 50


@contextlib.contextmanager
def steady(session: Session, engine: Engine, workload: Workload) -> Iterator[None]:
    """The requests of a workload run: all decode (TPOT), some have ended (output rate), or none has begun
    (prefill). What still runs at the end is aborted, and the engine left idle."""
    prompts = random_prompts(workload.requests, session.vocab_size, session.rng)
    requests = [
        session.request(prompt, each.output) for prompt, each in zip(prompts, workload.requests, strict=True)
    ]
    for request in requests:
        engine.add(request)
    sequences = [sequence for request in requests for sequence in request.sequences]
    try:
        if workload.measure is Measure.TPOT:
            wanted = min(TOKENS_BEFORE_TPOT, workload.requests[0].output - 1)
            while any(sequence.num_output_tokens < wanted for sequence in sequences):
                engine.step()
        elif workload.measure is Measure.OUTPUT_RATE:
            for _ in range(STEPS_BEFORE_RATE):
                engine.step()
        yield
    finally:
        for request in requests:
            engine.abort(request.sequences)
        engine.step()  # reads the step in flight, whose result is dropped


def device_step_ms(session: Session, engine: Any, requests: Sequence[Lengths]) -> float:
    """Milliseconds of a decode step of the device alone: the last step of a running batch, dispatched again
    and again without reading it. Its requests get tokens beyond their number, and are aborted.

    Before each dispatch, the rows go back by a position, to the one that the last step wrote. Otherwise they
    would leave their pages and write into those of others. That is a kernel of its own, of some two
    microseconds.

    The difference from the engine's own step is the idle time of the device. No profiler is needed, under
    which CUDA graphs are off.
    """
    workload = Workload("", Measure.TPOT, tuple(requests))
    executor = engine.executor
    plans: list[StepPlan] = []

    def remember(plan: StepPlan) -> Any:
        plans[:] = [plan]
        return dispatch(plan)

    dispatch = executor.dispatch
    with replaced(executor, "dispatch", remember), steady(session, engine, workload):
        batch = executor.make_batch(plans[0])
        for count in (2, REPLAYED_STEPS):
            jax.block_until_ready(executor.state)
            began = time.perf_counter()
            for _ in range(count):
                executor.state = _one_back(executor.state)
                result = executor.run(batch)
            jax.block_until_ready(result)
        return (time.perf_counter() - began) / REPLAYED_STEPS * 1e3


def _one_back(state: DeviceState) -> DeviceState:
    rows = state.rows
    return state._replace(rows=rows._replace(lengths=_less_one(rows.lengths)))


@jax.jit(donate_argnums=0)
def _less_one(lengths: Int32[Array, " rows"]) -> Int32[Array, " rows"]:
    return jnp.maximum(lengths - 1, 0)
