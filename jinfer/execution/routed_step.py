"""A step that also gives the experts of its tokens. A pure function."""

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jinfer.batching.batch import layout_of, unpack
from jinfer.batching.buckets import StepShape
from jinfer.config import EngineLimits
from jinfer.execution.device_state import DeviceState
from jinfer.execution.mixed_step import mixed_tokens
from jinfer.execution.step import NextTokens, choose_tokens, decode_tokens
from jinfer.models.model import Model
from jinfer.sampling.sampler import StepResult
from jinfer.weights.params import Params


def run_routed_step(
    model: Model,
    shape: StepShape,
    limits: EngineLimits,
    params: Params,
    state: DeviceState,
    packed: Int32[Array, " packed"],
) -> tuple[DeviceState, StepResult]:
    """A step as `step.run_step` computes it, with the last layer for all tokens, and the experts of each."""
    batch = unpack(layout_of(shape, limits), packed)
    find_tokens = decode_tokens if shape.is_decode else mixed_tokens
    rows, tokens, row_ids, sampling = find_tokens(model, limits=limits, rows=state.rows, batch=batch)
    hidden, kv_cache, expert_ids = model.routed_forward(
        params, state.kv_cache, tokens._replace(logits_indices=None)
    )
    rows = rows.with_lengths(batch["row_ids"], tokens.lengths)
    newest = hidden if tokens.logits_indices is None else hidden[tokens.logits_indices]
    wanted = NextTokens(model.logits(params, newest), row_ids, tokens.lengths, sampling)
    rows, result = choose_tokens(model.implementation, rows, wanted)
    result = result._replace(expert_ids=jnp.stack(expert_ids).astype(jnp.int16))
    return DeviceState(kv_cache, rows), result
