"""Logits as the rules of each row change them (requests/logits_rules.py), and what the device keeps for it.

A row's rules and counts lie in LogitsState under the row's number. They are put there when the row joins
(`with_row`), and the counts grow by each token that is chosen. Steps that need none of it do not carry it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int16, Int32, UInt32

from jinfer.batching.logits_rules import HostOrDevice, JoiningRow
from jinfer.requests.logits_rules import MAX_LOGIT_BIAS
from jinfer.requests.token_masker import TOKENS_PER_WORD, num_mask_words

# Of a token that may not be chosen: finite, for a row of logits that are not is a fault of the model.
EXCLUDED = float(jnp.finfo(jnp.float32).min)
MAX_COUNT = 2**15 - 1  # of a token in an output


class LogitsState(NamedTuple):
    """The rules of each row, and the counts that penalties follow from. The last row is the null row."""

    output_counts: Int16[Array, "rows vocab"]
    """The number of times that the output has each token."""
    is_in_prompt: Bool[Array, "rows vocab"]
    penalties: Float32[Array, "rows 3"]
    """The repetition, frequency and presence penalties."""
    bias_ids: Int32[Array, "rows biases"]
    """Unused entries lie outside the vocabulary."""
    biases: Float32[Array, "rows biases"]
    allowed_masks: UInt32[Array, "rows words"]
    """A bit a token: those that the request allows."""
    step_masks: UInt32[Array, "rows words"]
    """A bit a token: those that may come next, sent anew for each token of a row that has such a mask."""


class RowFlags(NamedTuple):
    """The rows of a batch that have rules, and those that have a mask for this step as well."""

    has_rules: Bool[HostOrDevice, " rows"]
    has_step_mask: Bool[HostOrDevice, " rows"]


def abstract_logits_state(max_num_seqs: int, vocab_size: int) -> LogitsState:
    """The shapes of an engine's state, which is all zeros at first."""
    num_rows = max_num_seqs + 1

    def rows_of(size: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((num_rows, size), dtype)

    return LogitsState(
        output_counts=rows_of(vocab_size, jnp.int16),
        is_in_prompt=rows_of(vocab_size, jnp.bool),
        penalties=rows_of(3, jnp.float32),
        bias_ids=rows_of(MAX_LOGIT_BIAS, jnp.int32),
        biases=rows_of(MAX_LOGIT_BIAS, jnp.float32),
        allowed_masks=rows_of(num_mask_words(vocab_size), jnp.uint32),
        step_masks=rows_of(num_mask_words(vocab_size), jnp.uint32),
    )


def with_row(state: LogitsState, joining: JoiningRow) -> LogitsState:
    """The state with the rules of a row that joins, and the counts of the tokens that it has."""
    row, vocab_size = joining.row, state.output_counts.shape[1]
    position = jnp.arange(joining.token_ids.shape[0])
    of_prompt = jnp.where(position < joining.num_prompt_tokens, joining.token_ids, vocab_size)
    is_output = (position >= joining.num_prompt_tokens) & (position < joining.num_tokens)
    of_output = jnp.where(is_output, joining.token_ids, vocab_size)
    counts = jnp.zeros(vocab_size, jnp.int32).at[of_output].add(1, mode="drop")
    return state._replace(
        output_counts=state.output_counts.at[row].set(jnp.minimum(counts, MAX_COUNT).astype(jnp.int16)),
        is_in_prompt=state.is_in_prompt.at[row].set(
            jnp.zeros(vocab_size, jnp.bool).at[of_prompt].set(True, mode="drop")
        ),
        penalties=state.penalties.at[row].set(joining.penalties),
        bias_ids=state.bias_ids.at[row].set(joining.bias_ids),
        biases=state.biases.at[row].set(joining.biases),
        allowed_masks=state.allowed_masks.at[row].set(joining.allowed_mask),
    )


def with_step_masks(
    step_masks: UInt32[Array, "rows words"],
    row_ids: Int32[Array, " masks"],
    masks: UInt32[Array, "masks words"],
) -> UInt32[Array, "rows words"]:
    """The masks of the step, with those of some rows in them."""
    return step_masks.at[row_ids].set(masks)


def with_chosen(
    state: LogitsState, row_ids: Int32[Array, " rows"], token_ids: Int32[Array, " rows"], flags: RowFlags
) -> LogitsState:
    """The state with a token more in the count of each row that has rules."""
    vocab_size = state.output_counts.shape[1]
    counted = jnp.where(flags.has_rules & (token_ids >= 0), token_ids, vocab_size)
    counts = state.output_counts
    is_full = counts[row_ids, jnp.minimum(counted, vocab_size - 1)] == MAX_COUNT
    counts = counts.at[row_ids, jnp.where(is_full, vocab_size, counted)].add(1, mode="drop")
    return state._replace(output_counts=counts)


def processed(
    logits: Float32[Array, "rows vocab"],
    state: LogitsState,
    row_ids: Int32[Array, " rows"],
    flags: RowFlags,
) -> Float32[Array, "rows vocab"]:
    """The logits after each row's rules; of rows without, as they are. EXCLUDED is no token's to choose.

    The repetition penalty r divides positive logits by r, and multiplies others, of tokens in prompt or
    output (Keskar et al., "CTRL", 2019). The frequency penalty is taken off as often as the output has the
    token, the presence penalty once if it has.
    """
    counts = state.output_counts[row_ids]
    repetition, frequency, presence = (state.penalties[row_ids, i, None] for i in range(3))
    has_come = (counts > 0) | state.is_in_prompt[row_ids]
    scaled = jnp.where(logits > 0, logits / repetition, logits * repetition)
    changed = jnp.where(has_come, scaled, logits)
    changed = changed - frequency * counts - presence * (counts > 0)
    changed = changed.at[jnp.arange(logits.shape[0])[:, None], state.bias_ids[row_ids]].add(
        state.biases[row_ids], mode="drop"
    )
    changed = jnp.clip(changed, EXCLUDED, -EXCLUDED)  # a product may have become infinite
    words = state.allowed_masks[row_ids]
    words = jnp.where(flags.has_step_mask[:, None], words & state.step_masks[row_ids], words)
    changed = jnp.where(_bits(words, logits.shape[1]), changed, EXCLUDED)
    return jnp.where(flags.has_rules[:, None], changed, logits)


def _bits(words: UInt32[Array, "rows words"], num_bits: int) -> Bool[Array, "rows bits"]:
    """The first bits of each row of words, the lowest of a word first."""
    shifts = jnp.arange(TOKENS_PER_WORD, dtype=jnp.uint32)
    bits = (words[:, :, None] >> shifts) & 1
    return bits.reshape(words.shape[0], -1)[:, :num_bits].astype(jnp.bool)
