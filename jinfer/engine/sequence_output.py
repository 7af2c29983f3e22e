"""The effect of a step on one sequence: one more token, and perhaps its end.

Text is made late, when the caller takes it: it costs more than everything else that the host does for a
token, and is often wanted at the end only. Where a stop string may end the output, every token becomes text
at once.
"""

from dataclasses import dataclass

from jinfer.requests.request import FinishReason, Sequence


@dataclass(slots=True, eq=False)
class SequenceOutput:
    """A token that was read, None at an end without one. `text` is None where it is not made yet.

    Made once and not changed. It is neither frozen nor a named tuple, for there is one of them for each row
    of each step, and either takes four times as long to make.
    """

    sequence: Sequence
    token_id: int | None
    text: str | None
    finish_reason: FinishReason | None

    def detokenize(self) -> str:
        """The text that has become final with this output. Outputs of a sequence are taken in order, each
        once."""
        if self.text is not None:
            return self.text
        detokenizer = self.sequence.detokenizer
        if detokenizer is None:
            return ""
        text = "" if self.token_id is None else detokenizer.add(self.token_id)
        return text if self.finish_reason is None else text + detokenizer.finish()


def append_token(sequence: Sequence, token_id: int) -> SequenceOutput:
    """Appends a sampled token, and says whether it is the last. It runs for each row of each step."""
    token_ids = sequence.token_ids
    token_ids.append(token_id)
    if sequence.has_stop_strings:
        return _append_text(sequence, token_id)
    if token_id in sequence.stop_token_ids or len(token_ids) >= sequence.max_total_tokens:
        return SequenceOutput(sequence, token_id, None, _end_by_token(sequence, token_id))
    return SequenceOutput(sequence, token_id, None, None)


def _append_text(sequence: Sequence, token_id: int) -> SequenceOutput:
    detokenizer = sequence.detokenizer
    assert detokenizer is not None, "stop strings without a tokenizer"
    text = detokenizer.add(token_id)
    reason = _end_by_token(sequence, token_id)
    if detokenizer.stop_reason is not None and reason is not FinishReason.STOP:
        sequence.stop_reason = detokenizer.stop_reason
        reason = FinishReason.STOP
    return SequenceOutput(sequence, token_id, text if reason is None else text + detokenizer.finish(), reason)


def _end_by_token(sequence: Sequence, token_id: int) -> FinishReason | None:
    """The reason to end with the newest token, whatever its text says."""
    if token_id in sequence.stop_token_ids:
        sequence.stop_reason = token_id if token_id in (sequence.params.stop_token_ids or ()) else None
        return FinishReason.STOP
    return FinishReason.LENGTH if len(sequence.token_ids) >= sequence.max_total_tokens else None
