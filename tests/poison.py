"""NaN in every page that nobody may read, so that reading it shows."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jinfer import LLM
from jinfer.batching.batch import Batch
from jinfer.engine import Engine
from jinfer.execution.device_state import DeviceState
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import StepPlan
from jinfer.weights.params import Params


class PoisonedSteps:
    """Stands before an engine's compiled steps, and before what shares pages ahead of a step. All pages hold NaN at the
    start; a page gets NaN again when it becomes free (not while the prefix cache keeps it), and the null page, to which
    padding writes, before every step."""

    def __init__(self, engine: Engine) -> None:
        self._compiled_steps, self._page_sharing = engine._steps, engine._page_sharing
        self._is_poisoned = np.ones(engine.limits.num_pages, bool)
        pool = engine._scheduler.page_pool
        for name in ("free", "evict"):
            setattr(pool, name, self._recording(getattr(pool, name)))
        engine._steps = self
        if engine._page_sharing is not None:
            engine._page_sharing = self.share_pages

    def _recording(self, function: Callable[[list[int]], None]) -> Callable[[Iterable[int]], None]:
        def call(page_ids: Iterable[int]) -> None:
            freed = list(page_ids)
            function(freed)
            self._is_poisoned[freed] = True

        return call

    def share_pages(self, state: DeviceState, plan: StepPlan) -> DeviceState:
        """Copies are made into pages that may have been freed a moment ago: first the poison, then the copies."""
        return self._page_sharing(self._poison(state), plan)

    def __call__(self, params: Params, state: DeviceState, batch: Batch):
        """A page that was freed and is given out again in this step has nothing in it that its new owner may read."""
        return self._compiled_steps(params, self._poison(state), batch)

    def close(self) -> None:
        self._compiled_steps.close()

    def _poison(self, state: DeviceState) -> DeviceState:
        self._is_poisoned[NULL_PAGE] = True
        state = state._replace(kv_cache=_filled_with_nan(state.kv_cache, self._is_poisoned.copy()))
        self._is_poisoned[:] = False
        return state


@jax.jit(donate_argnums=0)
def _filled_with_nan(kv_cache: tuple[jax.Array, ...], is_poisoned: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.where(is_poisoned[None, :, None, None, None], jnp.nan, layer) for layer in kv_cache)


def poisoned(llm: LLM) -> LLM:
    """The same LLM, with NaN where nobody may read. It must have no fault: that would replace its scheduler."""
    PoisonedSteps(llm._engine)
    return llm
