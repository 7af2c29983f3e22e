"""The second half of a step in which rows have rules for their logits. A pure function."""

from jinfer.batching.sampling_state import unpack_sampling
from jinfer.execution.device_state import Rows
from jinfer.execution.step import NextTokens
from jinfer.sampling.processed_logits import LogitsState, RowFlags
from jinfer.sampling.processed_sampler import ProcessedSampler
from jinfer.sampling.sampler import StepResult
from pallas_kernels import Implementation


def choose_processed(
    sampler: ProcessedSampler,
    implementation: Implementation,
    rows: Rows,
    state: LogitsState,
    next_tokens: NextTokens,
    flags: RowFlags,
) -> tuple[Rows, LogitsState, NextTokens, StepResult]:
    """The second half, as `step.choose_tokens`, with logits changed by the rules of each row. The first of
    `next_tokens` are meant, as many as there are flags; all are given back as they are."""
    wanted = next_tokens.first(flags.has_rules.shape[0])
    state, result = sampler(
        wanted.logits,
        state,
        wanted.row_ids,
        flags,
        unpack_sampling(wanted.sampling),
        wanted.positions,
        implementation,
    )
    return rows.with_tokens(wanted.row_ids, result.token_ids), state, next_tokens, result
