"""The time of one call, from a chain of calls in one executable.

XLA captures the chain in a CUDA graph, as it does with an engine's step, so a launch costs here what it costs
there. Calls take their arguments from several sets in turn, together larger than the L2 cache, and each waits
for the one before it:

    set      0    1    2    0    1    2   ...
    call     0 -> 1 -> 2 -> 3 -> 4 -> 5   ...
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Step = Callable[[Any, Any], tuple[Any, Any]]  # (carry, arguments) -> (carry, result)
WARM_UP_RUNS = 3  # the first captures the graph


class Inputs(NamedTuple):
    """The inputs of a chain, or their shapes."""

    # What a call hands on to the next: a query, a cache that is written in place, a weight that all share.
    carry: Any
    sets: list[Any]


@dataclass(frozen=True)
class Effort:
    """The duration of a measurement."""

    num_batches: int
    batch_s: float


THOROUGH = Effort(num_batches=5, batch_s=0.03)
QUICK = Effort(num_batches=3, batch_s=0.008)  # of a sweep, whose best are measured again
SMOKE = Effort(num_batches=1, batch_s=0.0)


class Timing(NamedTuple):
    """The time of a call. `is_host_bound` where dispatching took about as long as running: the device then
    waits for the host."""

    microseconds: float
    is_host_bound: bool
    inputs: Inputs  # with the carry after the chain; the carry before it was donated


@dataclass(frozen=True)
class Chain:
    """A compiled chain of `num_calls` calls. The next run writes its results to the same buffers, so that no
    address in the graph changes from run to run."""

    run: Callable[[Any, list[Any]], Any]
    num_calls: int
    result_shape: Any

    def time(self, inputs: Inputs, effort: Effort) -> Timing:
        """Returns the median over batches of runs that are dispatched without waiting."""
        results = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), [self.result_shape] * self.num_calls)
        state = jax.block_until_ready((inputs.carry, results))
        for _ in range(WARM_UP_RUNS):
            state, dispatch_s, run_s = self._batch(state, inputs.sets, 1)
        num_runs = max(1, round(effort.batch_s / run_s))
        totals = []
        for _ in range(effort.num_batches):
            state, _, total_s = self._batch(state, inputs.sets, num_runs)
            totals.append(total_s / num_runs)
        run_s = statistics.median(totals)
        return Timing(run_s / self.num_calls * 1e6, dispatch_s > 0.8 * run_s, Inputs(state[0], inputs.sets))

    def _batch(self, state: Any, sets: list[Any], num_runs: int) -> tuple[Any, float, float]:
        """Returns the new state, the seconds until all runs were dispatched, and the seconds until all were
        done."""
        began = time.perf_counter()
        for _ in range(num_runs):
            state = self.run(state, sets)
        dispatched = time.perf_counter()
        jax.block_until_ready(state)
        return state, dispatched - began, time.perf_counter() - began


def compile_chain(
    step: Step, shapes: Inputs, num_calls: int, compiler_options: dict[str, str | bool] | None = None
) -> Chain:
    """Compiles a chain for shapes alone. Several threads may call it at the same time."""
    _, result_shape = jax.eval_shape(step, shapes.carry, shapes.sets[0])
    state = shapes.carry, [result_shape] * num_calls
    # The results of the last run are donated, though no call reads them: this run writes to their buffers.
    lowered = jax.jit(chain_of(step, num_calls), donate_argnums=0, keep_unused=True).lower(state, shapes.sets)
    return Chain(lowered.compile(compiler_options=compiler_options), num_calls, result_shape)


def chain_of(step: Step, num_calls: int) -> Callable[[Any, list[Any]], Any]:
    """(state, sets) -> state, where a state is a carry and the results of all calls.

    The barrier makes every call depend on the one before it and its first argument new to XLA, which
    otherwise would drop, merge or hoist what it has seen before; it is gone before code is generated. The
    other arguments do not pass it: XLA fuses the scales of quantized weights with a product only where they
    are arguments of the program.
    """
    call = jax.jit(step)  # traced once, for all calls of the chain

    def chain(state, sets):
        latest, results = (state[0], None), []
        for i in range(num_calls):
            (first, *others), structure = jax.tree.flatten(sets[i % len(sets)])
            latest, first = jax.lax.optimization_barrier((latest, first))
            arguments = jax.tree.unflatten(structure, [first, *others])
            results.append(latest[1])
            latest = call(latest[0], arguments)
        return latest[0], [*results[1:], latest[1]]

    return chain
