"""NaN in every page that nobody may read, so that reading it shows."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jinfer import LLM
from jinfer.batching.batch import Batch
from jinfer.execution.device_state import DeviceState
from jinfer.models.model import Params
from jinfer.scheduling.page_pool import NULL_PAGE


class PoisonedSteps:
    """Stands before an engine's compiled steps. All pages hold NaN at the start; a page gets NaN again when it is
    freed, and the null page, to which padding writes, before every step."""

    def __init__(self, llm: LLM) -> None:
        engine = llm._engine
        self._compiled_steps = engine._steps
        self._page_pool = engine._scheduler.page_pool
        self._free = self._page_pool.free
        self._to_poison = np.ones(llm.limits.num_pages, bool)
        self._page_pool.free = self._record
        engine._steps = self

    def _record(self, page_ids: Iterable[int]) -> None:
        freed = list(page_ids)
        self._free(freed)
        self._to_poison[freed] = True

    def __call__(self, params: Params, state: DeviceState, batch: Batch):
        """A page that was freed and is given out again in this step has nothing in it that its new owner may read."""
        self._to_poison[NULL_PAGE] = True
        state = state._replace(kv_cache=_poison(state.kv_cache, self._to_poison.copy()))
        self._to_poison[:] = False
        return self._compiled_steps(params, state, batch)


@jax.jit(donate_argnums=0)
def _poison(kv_cache: tuple[jax.Array, ...], is_poisoned: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(jnp.where(is_poisoned[None, :, None, None, None], jnp.nan, layer) for layer in kv_cache)


def poisoned(llm: LLM) -> LLM:
    """The same LLM, with NaN where nobody may read. It must have no fault: that would replace its scheduler."""
    PoisonedSteps(llm)
    return llm
