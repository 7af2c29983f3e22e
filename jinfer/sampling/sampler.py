"""Logits to tokens. The mathematics is that of `pallas_kernels.sampling`."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int16, Int32

from jinfer.batching.sampling_state import SamplingRows
from jinfer.requests.sampling_params import MAX_LOGPROBS
from pallas_kernels import Implementation, sampling

NOT_FINITE = -1  # in a StepResult on the device: no token, for the logits of the row hold NaN or infinity


class StepResult(NamedTuple):
    """The results of a step for the host, one entry per row of its batch.

    A token is NOT_FINITE where logits hold NaN or infinity: a second array to say so would take as long to
    come to the host as the tokens. `top_*` are the MAX_LOGPROBS most likely tokens. Log probabilities are of
    the model's own distribution, before temperature and filters, unless a row asks for those of the
    distribution that it is sampled from; they are zeros in rows that do not want them. `expert_ids` are given
    by steps that tell the experts of their tokens, all of them.
    """

    token_ids: Int32[Array, " rows"]
    logprobs: Float32[Array, " rows"]
    top_token_ids: Int32[Array, "rows top"]
    top_logprobs: Float32[Array, "rows top"]
    expert_ids: Int16[Array, "layers tokens k"] | None = None


def sample(
    logits: Float32[Array, "rows vocab"],
    rows: SamplingRows,
    positions: Int32[Array, " rows"],
    implementation: Implementation,
) -> StepResult:
    """Chooses the token at `positions[row]` of each row's sequence."""
    token_ids, is_finite = choose(logits, rows, positions, implementation)
    return step_result(logits, token_ids, is_finite, rows, implementation)


def choose(
    logits: Float32[Array, "rows vocab"],
    rows: SamplingRows,
    positions: Int32[Array, " rows"],
    implementation: Implementation,
) -> tuple[Int32[Array, " rows"], Bool[Array, " rows"]]:
    """The token of each row, and whether its logits are finite."""
    return sampling.sample(
        logits,
        temperature=rows.temperature,
        top_p=rows.top_p,
        min_p=rows.min_p,
        top_k=rows.top_k,
        seeds=rows.seed,
        positions=positions,
        min_lengths=rows.min_length,
        blocked_ids=rows.blocked_ids,
        implementation=implementation,
    )


def step_result(
    logits: Float32[Array, "rows vocab"],
    token_ids: Int32[Array, " rows"],
    is_finite: Bool[Array, " rows"],
    rows: SamplingRows,
    implementation: Implementation,
) -> StepResult:
    """The results for the host, with the log probabilities of these logits."""
    found = logprobs_of(logits, token_ids, rows.wants_logprobs > 0, implementation)
    return StepResult(jnp.where(is_finite, token_ids, NOT_FINITE), *found)


def logprobs_of(
    logits: Float32[Array, "rows vocab"],
    token_ids: Int32[Array, " rows"],
    wanted: Bool[Array, " rows"],
    implementation: Implementation,
) -> tuple[Float32[Array, " rows"], Int32[Array, "rows top"], Float32[Array, "rows top"]]:
    """The log probability of each token, and the ids and log probabilities of the MAX_LOGPROBS most likely
    ones. Zeros in rows that are not wanted."""
    return sampling.top_logprobs(
        logits,
        token_ids,
        wanted,
        count=min(MAX_LOGPROBS, logits.shape[-1]),
        implementation=implementation,
    )
