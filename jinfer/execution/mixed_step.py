"""The tokens of a mixed step on the device: chunks of prompts and decode rows in one flattened batch."""

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.batching.mixed_batch import TOKEN_ON_DEVICE
from jinfer.config import EngineLimits
from jinfer.execution.device_state import Rows
from jinfer.models.attention import TokenBatch, rows_of_tokens
from jinfer.models.model import Model
from jinfer.scheduling.page_pool import NULL_PAGE


def mixed_tokens(
    model: Model, *, limits: EngineLimits, rows: Rows, batch: dict[str, Array]
) -> tuple[Rows, TokenBatch, Int32[Array, " rows"], Int32[Array, "rows packed"]]:
    """Chunks of prompts and decode rows in one flattened batch; rows that join bring their sampling
    parameters. The third result has the null row for a chunk that is not the last of its prompt."""
    row_ids = batch["row_ids"]
    rows = rows.with_pages(batch["page_rows"], batch["page_entries"], batch["page_ids"])
    rows = rows._replace(sampling=rows.sampling.at[row_ids].set(batch["sampling"]))
    lengths = batch["start_positions"] + jnp.diff(batch["query_starts"])
    tokens = _flattened_tokens(model, rows, batch, lengths, limits)
    sampled_rows = jnp.where(batch["is_sampled"] > 0, row_ids, limits.max_num_seqs)
    return rows, tokens, sampled_rows, batch["sampling"]


def _flattened_tokens(
    model: Model, rows: Rows, batch: dict[str, Array], lengths: Array, limits: EngineLimits
) -> TokenBatch:
    """Each token of a mixed batch with its row, its position, and the page and offset of its keys and
    values."""
    row_ids, query_starts = batch["row_ids"], batch["query_starts"]
    token = jnp.arange(batch["token_ids"].shape[0], dtype=jnp.int32)
    is_token = token < query_starts[-1]
    row = rows_of_tokens(query_starts, len(token))
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
        prompt_lengths=rows.prompt_lengths(row_ids[row]) if model.config.depends_on_length else None,
        logits_indices=jnp.maximum(query_starts[1:] - 1, 0),
    )
