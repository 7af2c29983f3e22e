"""One step on the device: a packed batch in, the next state and the sampled tokens out. Pure functions."""

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.batching.batch import layout_of, unpack
from jinfer.batching.buckets import StepShape
from jinfer.batching.sampling_state import unpack_sampling
from jinfer.config import Limits
from jinfer.execution.device_state import DeviceState
from jinfer.execution.mixed_step import mixed_step
from jinfer.models.attention import TokenBatch
from jinfer.models.model import Model
from jinfer.sampling import StepResult, sample
from jinfer.weights.params import Params


def run_step(
    model: Model,
    shape: StepShape,
    limits: Limits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
) -> tuple[DeviceState, StepResult]:
    """Computes one batch of `shape`: compiled once per shape, with `state` donated."""
    step = _decode_step if shape.is_decode else mixed_step
    batch = unpack(layout_of(shape, limits), packed)
    return step(model, limits=limits, params=params, state=state, batch=batch)


def _decode_step(
    model: Model, *, limits: Limits, params: Params, state: DeviceState, batch: dict[str, Array]
) -> tuple[DeviceState, StepResult]:
    """One token of each row; all but the rows that run and their new pages is on the device already.

    Positions are clamped to the end of the page table, since kernels write wherever page tables and lengths
    say.
    """
    row_ids = batch["row_ids"]
    is_row = row_ids < limits.max_num_seqs
    last_position = limits.pages_per_sequence * limits.page_size - 1
    positions = jnp.where(is_row, jnp.minimum(state.rows.lengths[row_ids], last_position), 0)
    entries = positions // limits.page_size
    rows = state.rows.with_pages(row_ids, entries, batch["new_page_ids"])
    page_table = rows.page_table[row_ids]
    tokens = TokenBatch(
        token_ids=rows.newest_token[row_ids],
        positions=positions,
        page_ids=jnp.take_along_axis(page_table, entries[:, None], axis=1)[:, 0],
        page_offsets=positions % limits.page_size,
        page_table=page_table,
        lengths=jnp.where(is_row, positions + 1, 0),
        prompt_lengths=rows.prompt_lengths(row_ids) if model.config.depends_on_length else None,
    )
    hidden, kv_cache = model.forward(params, state.kv_cache, tokens)
    result = sample(
        model.logits(params, hidden),
        rows=unpack_sampling(rows.sampling[row_ids]),
        positions=positions + 1,
        implementation=model.implementation,
    )
    rows = rows.with_tokens(row_ids, result.token_ids).with_lengths(row_ids, tokens.lengths)
    return DeviceState(kv_cache, rows), result
