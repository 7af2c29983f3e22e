"""One step on the device: a packed batch in, the next state and the chosen tokens out. Pure functions.

A step has two halves, which are one program unless something is done to the logits in between
(split_steps.py): `forward` ends with the logits of the rows that get a token, `choose_tokens` begins with
them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from jinfer.batching.batch import layout_of, unpack
from jinfer.batching.buckets import StepShape
from jinfer.batching.sampling_state import unpack_sampling
from jinfer.config import EngineLimits
from jinfer.execution.device_state import DeviceState, Rows
from jinfer.execution.mixed_step import mixed_tokens
from jinfer.models.attention import TokenBatch
from jinfer.models.model import Model
from jinfer.sampling.sampler import StepResult, sample
from jinfer.weights.params import Params
from pallas_kernels import Implementation


class NextTokens(NamedTuple):
    """The tokens that a step is to choose: one of each row of its batch."""

    logits: Float32[Array, "rows vocab"]
    row_ids: Int32[Array, " rows"]
    """The rows that get them; the null row for one that nobody waits for."""
    positions: Int32[Array, " rows"]
    sampling: Int32[Array, "rows packed"]

    def with_first(self, rows: "NextTokens") -> "NextTokens":
        """These, with others in place of the first rows."""
        return jax.tree.map(lambda all_rows, first: all_rows.at[: first.shape[0]].set(first), self, rows)

    def first(self, num_rows: int) -> "NextTokens":
        """The first rows."""
        return jax.tree.map(lambda all_rows: all_rows[:num_rows], self)


def run_step(
    model: Model,
    shape: StepShape,
    limits: EngineLimits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
) -> tuple[DeviceState, StepResult]:
    """Computes one batch of `shape`: compiled once per shape, with `state` donated."""
    state, wanted = forward(model, shape, limits, params, state, packed)
    rows, result = choose_tokens(model.implementation, state.rows, wanted)
    return DeviceState(state.kv_cache, rows), result


def forward(
    model: Model,
    shape: StepShape,
    limits: EngineLimits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
) -> tuple[DeviceState, NextTokens]:
    """The first half: keys and values into the cache, and the logits of the next tokens."""
    batch = unpack(layout_of(shape, limits), packed)
    find_tokens = decode_tokens if shape.is_decode else mixed_tokens
    rows, tokens, row_ids, sampling = find_tokens(model, limits=limits, rows=state.rows, batch=batch)
    hidden, kv_cache = model.forward(params, state.kv_cache, tokens)
    rows = rows.with_lengths(batch["row_ids"], tokens.lengths)
    wanted = NextTokens(model.logits(params, hidden), row_ids, tokens.lengths, sampling)
    return DeviceState(kv_cache, rows), wanted


def forward_into(
    model: Model,
    shape: StepShape,
    limits: EngineLimits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
    next_tokens: NextTokens,
) -> tuple[DeviceState, NextTokens]:
    """The first half as a program of its own: what `forward` gives becomes the first rows of `next_tokens`.

    These are donated, so that a step's arrays lie where those of the step before lay: XLA updates a CUDA
    graph whose arrays lie elsewhere. With new arrays the host took 3.7 to 5.0 ms to dispatch it, and 1.1 for
    a fused step, of an 8B's 9 (one H200, 200 rows).
    """
    state, wanted = forward(model, shape, limits, params, state, packed)
    return state, next_tokens.with_first(wanted)


def choose_tokens(implementation: Implementation, rows: Rows, wanted: NextTokens) -> tuple[Rows, StepResult]:
    """The second half, for logits that are used as they are."""
    result = sample(
        wanted.logits,
        rows=unpack_sampling(wanted.sampling),
        positions=wanted.positions,
        implementation=implementation,
    )
    return rows.with_tokens(wanted.row_ids, result.token_ids), result


def decode_tokens(
    model: Model, *, limits: EngineLimits, rows: Rows, batch: dict[str, Array]
) -> tuple[Rows, TokenBatch, Int32[Array, " rows"], Int32[Array, "rows packed"]]:
    """One token of each row; all but the rows that run and their new pages is on the device already.

    Positions are clamped to the end of the page table, since kernels write wherever page tables and lengths
    say.
    """
    row_ids = batch["row_ids"]
    is_row = row_ids < limits.max_num_seqs
    last_position = limits.pages_per_sequence * limits.page_size - 1
    positions = jnp.where(is_row, jnp.minimum(rows.lengths[row_ids], last_position), 0)
    entries = positions // limits.page_size
    rows = rows.with_pages(row_ids, entries, batch["new_page_ids"])
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
    return rows, tokens, row_ids, rows.sampling[row_ids]
