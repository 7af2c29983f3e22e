"""NaN in every page that nobody may read, so that reading it shows."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinfer import LLM
from jinfer.engine.engine import Engine
from jinfer.execution.device_state import DeviceState
from jinfer.execution.executor import Executor
from jinfer.execution.kv_cache import KVCache
from jinfer.sampling.sampler import StepResult
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import StepPlan


class PoisonedExecutor:
    """Stands before an engine's executor. All pages hold NaN at the start; a page gets NaN again when it
    becomes free (not while the prefix cache keeps it), and the null page, to which padding writes, before
    every step.

    A page that was freed and is given out again in this step has nothing in it that its new owner may read.
    Copies are made into pages that may have been freed a moment ago: first the poison, then the copies."""

    def __init__(self, engine: Engine) -> None:
        self._executor: Executor = engine.executor
        self._is_poisoned = np.ones(engine.limits.num_pages, bool)
        pool = engine.scheduler.page_pool
        for name in ("free", "evict"):
            setattr(pool, name, self._recording(getattr(pool, name)))

    def _recording(self, function: Callable[[list[int]], None]) -> Callable[[Iterable[int]], None]:
        def call(page_ids: Iterable[int]) -> None:
            freed = list(page_ids)
            function(freed)
            self._is_poisoned[freed] = True

        return call

    @property
    def params(self) -> Any:
        return self._executor.params

    @params.setter
    def params(self, params: Any) -> None:
        self._executor.params = params

    def dispatch(self, plan: StepPlan) -> StepResult:
        self._executor.state = self._poison(self._executor.state)
        return self._executor.dispatch(plan)

    def prepare(self, *kind: Any) -> Any:
        return self._executor.prepare(*kind)

    def begin(self, plan: StepPlan) -> Any:
        self._executor.state = self._poison(self._executor.state)
        return self._executor.begin(plan)

    def new_masks(self, *num_rows: Any) -> Any:
        return self._executor.new_masks(*num_rows)

    def choose(self, *step: Any) -> None:
        self._executor.choose(*step)

    def read(self, *step: Any) -> Any:
        return self._executor.read(*step)

    def reset(self) -> None:
        raise AssertionError("a fault would leave pages without poison")

    def close(self) -> None:
        self._executor.close()

    def _poison(self, state: DeviceState) -> DeviceState:
        self._is_poisoned[NULL_PAGE] = True
        state = state._replace(kv_cache=_filled_with_nan(state.kv_cache, self._is_poisoned.copy()))
        self._is_poisoned[:] = False
        return state


@jax.jit(donate_argnums=0)
def _filled_with_nan(kv_cache: KVCache, is_poisoned: jax.Array) -> KVCache:
    """An integer cannot be NaN: its scale is."""

    def filled(array: jax.Array, page_axis: int) -> jax.Array:
        poison = jnp.asarray(jnp.nan if jnp.issubdtype(array.dtype, jnp.floating) else 77, array.dtype)
        shape = [-1 if axis == page_axis else 1 for axis in range(array.ndim)]
        return jnp.where(is_poisoned.reshape(shape), poison, array)

    return tuple(
        jax.tree.map(functools.partial(filled, page_axis=pages.page_axis), pages) for pages in kv_cache
    )


def poisoned(llm: LLM) -> LLM:
    """The same LLM, with NaN where nobody may read. It must have no fault: that would replace its pages."""
    llm.engine.executor = PoisonedExecutor(llm.engine)
    return llm
