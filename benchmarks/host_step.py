"""What a steady decode step costs the host, in microseconds, with a device that answers at once.

    python -m benchmarks.host_step --rows 256

Prints a line of JSON: medians of planning (`schedule`), padding (`batch`), reading and accepting the tokens
(`read`), the whole of `Engine.step`, and `deliver`: handing the updates to the queue of their caller, and
taking them out again. No model, no GPU, no tokenizer. The device's own dispatch is not in it.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax.numpy as jnp

from jinfer.batching.buckets import Buckets
from jinfer.config import EngineLimits
from jinfer.engine.engine import Engine
from jinfer.engine.output_queue import OutputQueue
from jinfer.engine.stats import Counters
from jinfer.execution.device_state import DeviceState
from jinfer.execution.executor import Executor
from jinfer.execution.split_steps import SplitSteps
from jinfer.placement import default_placement
from jinfer.requests.new_request import create_request
from jinfer.requests.request import Request
from jinfer.requests.sampling_params import MAX_LOGPROBS, SamplingParams
from jinfer.sampling.sampler import StepResult
from jinfer.scheduling.scheduler import Scheduler

PROMPT_LENGTH, PAGE_SIZE, CONTEXT = 128, 16, 2048
WARM_UP_STEPS, TIMED_STEPS = 20, 300


class InstantStep:
    """Stands in for the compiled step of a number of rows, each of which samples token 0."""

    def __init__(self, rows: int) -> None:
        top = jnp.zeros((rows, MAX_LOGPROBS), jnp.int32)
        self._result = StepResult(jnp.zeros(rows, jnp.int32), jnp.zeros(rows), top, top.astype(jnp.float32))

    def __call__(self, params: Any, state: Any, packed: Any) -> tuple[Any, StepResult]:
        """The same result for every batch."""
        return state, self._result


class Stopwatch:
    """Wraps functions and records the duration of each call."""

    def __init__(self) -> None:
        self.microseconds: dict[str, list[float]] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed under `name`."""
        times = self.microseconds.setdefault(name, [])

        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            times.append((time.perf_counter() - began) * 1e6)
            return result

        return call


def main() -> None:
    """Measures one number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=256)
    options = parser.parse_args()
    print(json.dumps({"rows": options.rows, "unit": "us", **measure(options.rows)}))


def measure(rows: int) -> dict[str, float]:
    """Returns the median microseconds of each part."""
    watch = Stopwatch()
    engine = _engine(rows)
    requests = _requests(rows, engine.limits)
    queue = OutputQueue(requests)
    for request in requests:
        engine.add(request)
    for _ in range(WARM_UP_STEPS):
        engine.step()
    scheduler, executor = engine.scheduler, engine.executor
    with (
        mock.patch.object(scheduler, "schedule", watch.timed("schedule", scheduler.schedule)),
        mock.patch.object(executor, "make_batch", watch.timed("batch", executor.make_batch)),
        mock.patch.object(engine, "read", watch.timed("read", engine.read)),
    ):
        step, deliver = watch.timed("step", engine.step), watch.timed("deliver", _deliver)
        for _ in range(TIMED_STEPS):
            deliver(step(), queue)
    return {name: round(statistics.median(times), 1) for name, times in watch.microseconds.items()}


def _deliver(updates: list[Any], queue: OutputQueue) -> None:
    for update in updates:
        queue.put(update)
    for _ in queue.take_all():
        pass


def _engine(rows: int) -> Engine:
    pages = rows * -(-CONTEXT // PAGE_SIZE) + 1
    limits = EngineLimits(PAGE_SIZE, pages, rows, max(4096, rows), CONTEXT)
    state = DeviceState((), None)
    executor = Executor(
        params={},
        limits=limits,
        executables={shape: InstantStep(shape.rows) for shape in Buckets.for_limits(limits).all},
        placement=default_placement(),
        prefix_updates=None,
        split_steps=mock.create_autospec(SplitSteps, instance=True),  # nothing asks for one
        state=state,
        new_state=lambda: state,
    )
    return Engine(Scheduler(limits, Counters()), executor)


def _requests(rows: int, limits: EngineLimits) -> list[Request]:
    """Prompts of different lengths, so that pages begin in every step and not in every sixteenth."""
    params = SamplingParams(max_tokens=WARM_UP_STEPS + 2 * TIMED_STEPS, ignore_eos=True).with_defaults({})
    prompts = [[i] * (PROMPT_LENGTH + i % PAGE_SIZE) for i in range(rows)]
    return [
        create_request(
            f"{i}", None, prompt, params, eos_token_ids=frozenset(), vocab_size=rows, limits=limits
        )
        for i, prompt in enumerate(prompts)
    ]


if __name__ == "__main__":
    main()
