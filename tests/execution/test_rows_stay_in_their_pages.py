"""Steps that nobody planned: a row that is stepped on and on stays in its pages, and touches no others.

A kernel takes page tables and lengths at their word. On a GPU, a position that the table does not have is a
wild address.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jinfer.batching.batch import padding_batch
from jinfer.batching.buckets import StepShape
from jinfer.config import EngineLimits
from jinfer.execution.device_state import DeviceState, abstract_device_state
from jinfer.execution.step import run_step
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.weights.dummy_params import dummy_params
from tests.tiny_model import CONFIG

LIMITS = EngineLimits(page_size=4, num_pages=12, max_num_seqs=2, max_num_batched_tokens=8, max_model_len=10)
CAPACITY = LIMITS.pages_per_sequence * LIMITS.page_size
TABLES = [[2, 5, 7], [3, 4, 9]]
CANARIES = [1, 6, 8, 10, 11]  # pages that neither row has
SHAPE = StepShape(2)


def state_of(lengths: list[int]) -> DeviceState:
    """Two rows in the middle of a cache in which all is -8."""
    state = default_placement().zeros(
        abstract_device_state(read_model_config(CONFIG), LIMITS, jnp.dtype("float32"))
    )
    rows = state.rows._replace(
        lengths=jnp.array([*lengths, 0], jnp.int32), page_table=jnp.array([*TABLES, [0, 0, 0]], jnp.int32)
    )
    return DeviceState(jax.tree.map(lambda pages: jnp.full_like(pages, -8), state.kv_cache), rows)


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_a_row_at_the_end_of_its_pages_stays_there(implementation):
    model = build_model(read_model_config(CONFIG), jnp.dtype("float32"), implementation)
    step = jax.jit(functools.partial(run_step, model, SHAPE, LIMITS), donate_argnums=1)
    packed = padding_batch(SHAPE, LIMITS).packed.copy()
    packed[:2] = [0, 1]  # its row_ids
    params = dummy_params(model.param_specs, 0, placement=default_placement())
    state = state_of([CAPACITY - 2, CAPACITY - 1])
    for _ in range(5):
        state, _ = step(params, state, packed)

    assert state.rows.lengths.tolist() == [CAPACITY, CAPACITY, 0]
    for layer in map(np.asarray, jax.tree.leaves(state.kv_cache)):
        assert (layer[:, CANARIES] == -8).all(), "a page of nobody was written"
        for table, first_new in zip(TABLES, (CAPACITY - 2, CAPACITY - 1), strict=True):
            kept = layer[:, table].reshape(2, CAPACITY, *layer.shape[3:])
            assert (kept[:, :first_new] == -8).all(), "a position before was written"
            assert (kept[:, first_new:] != -8).any(axis=(-1, -2)).all(), "the last positions were not"
