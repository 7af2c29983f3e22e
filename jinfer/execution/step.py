"""One step on the device: a packed batch in, the next state and the sampled tokens out. Pure functions."""

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.batching.batch import TOKEN_ON_DEVICE, layout_of
from jinfer.batching.buckets import StepShape
from jinfer.batching.packing import unpack
from jinfer.batching.sampling_state import PROMPT_LENGTH, unpack_sampling
from jinfer.config import Limits
from jinfer.execution.device_state import DeviceState, Rows
from jinfer.models.model import Model
from jinfer.models.token_batch import TokenBatch
from jinfer.sampling import StepResult, sample
from jinfer.scheduling.page_pool import NULL_PAGE
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
    step = _decode_step if shape.is_decode else _mixed_step
    return step(model, limits, params, state, unpack(layout_of(shape, limits), packed))


def _decode_step(model: Model, limits: Limits, params: Params, state: DeviceState, batch: dict[str, Array]):
    """One token of each row; all but the rows that run and their new pages is on the device already.

    Positions are clamped to the end of the page table, since kernels write wherever page tables and lengths
    say.
    """
    row_ids = batch["row_ids"]
    is_row = row_ids < limits.max_num_seqs
    last_position = limits.pages_per_sequence * limits.page_size - 1
    positions = jnp.where(is_row, jnp.minimum(state.rows.lengths[row_ids], last_position), 0)
    entries = positions // limits.page_size
    rows = state.rows._replace(
        page_table=_with_new_pages(state.rows, row_ids, entries, batch["new_page_ids"])
    )
    page_table = rows.page_table[row_ids]
    tokens = TokenBatch(
        token_ids=rows.newest_token[row_ids],
        positions=positions,
        page_ids=jnp.take_along_axis(page_table, entries[:, None], axis=1)[:, 0],
        page_offsets=positions % limits.page_size,
        page_table=page_table,
        lengths=jnp.where(is_row, positions + 1, 0),
        prompt_lengths=_prompt_lengths(model, rows, row_ids),
    )
    hidden, kv_cache = model.forward(params, state.kv_cache, tokens)
    sampling = unpack_sampling(rows.sampling[row_ids])
    result = sample(model.logits(params, hidden), sampling, positions + 1, model.implementation)
    rows = rows._replace(
        newest_token=rows.newest_token.at[row_ids].set(_any_token(result)),
        lengths=rows.lengths.at[row_ids].set(tokens.lengths),
    )
    return DeviceState(kv_cache, rows), result


def _mixed_step(model: Model, limits: Limits, params: Params, state: DeviceState, batch: dict[str, Array]):
    """Chunks of prompts and decode rows in one flattened batch; rows that join bring their sampling
    parameters."""
    row_ids, query_starts = batch["row_ids"], batch["query_starts"]
    page_table = _with_new_pages(state.rows, batch["page_rows"], batch["page_entries"], batch["page_ids"])
    rows = state.rows._replace(
        page_table=page_table, sampling=state.rows.sampling.at[row_ids].set(batch["sampling"])
    )
    lengths = batch["start_positions"] + jnp.diff(query_starts)
    tokens = _flattened_tokens(model, rows, batch, lengths, limits)
    hidden, kv_cache = model.forward(params, state.kv_cache, tokens)
    sampling = unpack_sampling(batch["sampling"])
    result = sample(model.logits(params, hidden), sampling, lengths, model.implementation)
    sampled_rows = jnp.where(batch["is_sampled"] > 0, row_ids, limits.max_num_seqs)
    rows = rows._replace(
        newest_token=rows.newest_token.at[sampled_rows].set(_any_token(result)),
        lengths=rows.lengths.at[row_ids].set(lengths),
    )
    return DeviceState(kv_cache, rows), result


def _any_token(result: StepResult) -> Array:
    """Token ids that can be looked up: a row whose logits are not finite may run once more before the host
    knows."""
    return jnp.maximum(result.token_ids, 0)


def _prompt_lengths(model: Model, rows: Rows, row_ids: Array) -> Array | None:
    """The prompt length of each row, where the model's rotary embedding depends on it."""
    return rows.sampling[row_ids, PROMPT_LENGTH] if model.config.depends_on_length else None


def _flattened_tokens(
    model: Model, rows: Rows, batch: dict[str, Array], lengths: Array, limits: Limits
) -> TokenBatch:
    """Each token of a mixed batch with its row, its position, and the page and offset of its keys and
    values."""
    row_ids, query_starts = batch["row_ids"], batch["query_starts"]
    token = jnp.arange(batch["token_ids"].shape[0], dtype=jnp.int32)
    is_token = token < query_starts[-1]
    row = jnp.sum(token[:, None] >= query_starts[None, 1:], axis=1, dtype=jnp.int32)
    row = jnp.minimum(row, row_ids.shape[0] - 1)
    positions = jnp.where(is_token, batch["start_positions"][row] + token - query_starts[row], 0)
    is_on_device = batch["token_ids"] == TOKEN_ON_DEVICE
    page_ids = rows.page_table[row_ids[row], positions // limits.page_size]
    return TokenBatch(
        token_ids=jnp.where(is_on_device, rows.newest_token[row_ids[row]], batch["token_ids"]),
        positions=positions,
        page_ids=jnp.where(is_token, page_ids, NULL_PAGE),
        page_offsets=positions % limits.page_size,
        page_table=rows.page_table[row_ids],
        lengths=lengths,
        query_starts=query_starts,
        num_decode_rows=batch["num_decode_rows"][0],
        prompt_lengths=_prompt_lengths(model, rows, row_ids[row]),
        logits_indices=jnp.maximum(query_starts[1:] - 1, 0),
    )


def _with_new_pages(rows: Rows, row_ids: Array, entries: Array, page_ids: Array) -> Array:
    """The page table with page_ids at (row_ids, entries); the null page stands for no change."""
    dropped = rows.page_table.shape[1]
    entries = jnp.where(page_ids == NULL_PAGE, dropped, entries)
    return rows.page_table.at[row_ids, entries].set(page_ids, mode="drop")
