"""Masks of the rows whose next token depends on those before it: filled before a step chooses its tokens."""

from collections.abc import Iterable
from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jinfer.engine.split_plan import SplitExecutor, StepMasks
from jinfer.errors import RequestError
from jinfer.requests.request import FinishReason, Sequence, SequenceOutput
from jinfer.requests.token_masker import TokenMasker, forbid_tokens, min_tokens_error
from jinfer.scheduling.step_plan import StepPlan
from jinfer.text.grammar.mask_filling import accept_tokens, fill_masks

NO_TOKEN_ALLOWED = "what restricts the output allows no token; relax it"


class MaskedRow(NamedTuple):
    """A row of a plan whose sequence has a masker."""

    row: int
    sequence: Sequence


class Unfillable(NamedTuple):
    """A sequence that no token may follow, and why."""

    sequence: Sequence
    error: RequestError


def masked_rows(plan: StepPlan) -> list[MaskedRow]:
    """The rows of a plan that need a mask."""
    return [
        MaskedRow(row, sequence)
        for row, sequence in enumerate(plan.sampling_sequences)
        if sequence is not None and sequence.masker is not None
    ]


def fill(rows: Items[MaskedRow], executor: SplitExecutor) -> tuple[StepMasks, list[Unfillable]]:
    """The masks of sequences all of whose tokens are known. Those that no token may follow have none."""
    words = executor.new_masks(len(rows))
    are_usable = fill_masks([masker for _, sequence in rows if (masker := sequence.masker)], words)
    kept: list[int | None] = []
    unfillable = []
    for each, mask, is_usable in zip(rows, words, are_usable, strict=False):  # perhaps more masks than rows
        error = _check(each.sequence, mask, is_usable)
        kept.append(each.row if error is None else None)
        if error is not None:
            unfillable.append(Unfillable(each.sequence, error))
    return StepMasks(kept, words), unfillable


def _check(sequence: Sequence, words: NDArray[np.uint32], is_usable: bool) -> RequestError | None:
    """Takes ends of the output out of a mask while min_tokens asks for more. The reason if nothing is
    left."""
    if not is_usable:
        error = sequence.masker.error if sequence.masker is not None else None
        return RequestError(NO_TOKEN_ALLOWED) if error is None else error
    min_tokens = sequence.params.min_tokens
    if sequence.num_output_tokens < min_tokens and not forbid_tokens(words, sequence.stop_token_ids):
        return min_tokens_error(sequence.num_output_tokens, min_tokens)
    return None


def accept(outputs: Iterable[SequenceOutput]) -> None:
    """Gives tokens that were read to the maskers of their sequences, which may end the outputs."""
    masked = [
        (masker, output, output.token_id)
        for output in outputs
        if (masker := output.sequence.masker) is not None
        and output.token_id is not None
        and output.finish_reason is None
    ]
    accept_tokens([(masker, token_id) for masker, _, token_id in masked])
    for masker, output, _ in masked:
        _end_if_complete(masker, output)


def _end_if_complete(masker: TokenMasker, output: SequenceOutput) -> None:
    sequence = output.sequence
    error: RequestError | None = masker.error
    if error is None and masker.is_finished:
        num_tokens, min_tokens = sequence.num_output_tokens, sequence.params.min_tokens
        if num_tokens < min_tokens:
            error = min_tokens_error(num_tokens, min_tokens)
        else:
            end(output, FinishReason.STOP)
    if error is not None:
        sequence.error, sequence.is_refused = str(error), True
        end(output, FinishReason.ERROR)


def end(output: SequenceOutput, reason: FinishReason) -> None:
    """Makes an output the last of its sequence. Text that is made early is made to its end."""
    output.finish_reason = reason
    detokenizer = output.sequence.detokenizer
    if output.text is not None and detokenizer is not None:
        output.text += detokenizer.finish()
