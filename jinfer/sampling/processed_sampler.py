"""Logits to tokens, for a batch in which some rows have rules for their logits."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

from jinfer.batching.sampling_state import PROCESSED_LOGPROBS, SamplingRows
from jinfer.sampling.processed_logits import EXCLUDED, LogitsState, RowFlags, processed, with_chosen
from jinfer.sampling.sampler import StepResult, choose, step_result
from pallas_kernels import Implementation, sampling

ProcessedSampler = Callable[..., tuple[LogitsState, StepResult]]
"""`sample_processed` or `sample_and_report`."""


def sample_processed(
    logits: Float32[Array, "rows vocab"],
    state: LogitsState,
    row_ids: Int32[Array, " rows"],
    flags: RowFlags,
    rows: SamplingRows,
    positions: Int32[Array, " rows"],
    implementation: Implementation,
    *,
    reports_processed: bool = False,
) -> tuple[LogitsState, StepResult]:
    """Chooses the token at `positions[row]` of each row's sequence, and counts it where the row has rules.

    Rows without rules get the tokens that `sampler.sample` gives them. Whether logits are finite is asked of
    the model's own, and log probabilities are of these. With `reports_processed`, rows that ask for it get
    those of the distribution that their token is drawn from. These cost many times what choosing does, and a
    condition on the device would make the host wait: so that is a program of its own.
    """
    changed = processed(logits, state, row_ids, flags)
    token_ids, _ = choose(changed, rows, positions, implementation)
    reported = logits
    if reports_processed:
        is_processed = rows.wants_logprobs == PROCESSED_LOGPROBS
        reported = jnp.where(is_processed[:, None], _sampled_from(changed, rows, positions), logits)
    result = step_result(reported, token_ids, _is_finite(logits), rows, implementation)
    return with_chosen(state, row_ids, result.token_ids, flags), result


sample_and_report = functools.partial(sample_processed, reports_processed=True)


def _is_finite(logits: Float32[Array, "rows vocab"]) -> Bool[Array, " rows"]:
    return jnp.all(jnp.isfinite(logits), axis=-1)


def _sampled_from(
    logits: Float32[Array, "rows vocab"], rows: SamplingRows, positions: Int32[Array, " rows"]
) -> Float32[Array, "rows vocab"]:
    """The logits of the distribution that each row is sampled from. They are finite, as log probabilities
    want them."""
    found = sampling.sampled_logits(
        logits,
        temperature=rows.temperature,
        top_p=rows.top_p,
        min_p=rows.min_p,
        top_k=rows.top_k,
        positions=positions,
        min_lengths=rows.min_length,
        blocked_ids=rows.blocked_ids,
    )
    return jnp.maximum(found, EXCLUDED)
