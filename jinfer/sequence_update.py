"""What reading a step brings to a sequence: a token more, and perhaps its end.

Text is made late, by whoever takes it: it costs more than all else that the host does for a token, and nobody may want
it before the end. Only where a stop string may end the output does every token become text at once.
"""

from typing import NamedTuple

from jinfer.request import FinishReason, Sequence


class SequenceUpdate(NamedTuple):
    """A token that was read, None at an end without one. `text` is None where it is not made yet."""

    sequence: Sequence
    token_id: int | None
    text: str | None
    finish_reason: FinishReason | None

    def take_text(self) -> str:
        """The text that has become final with this update. Updates of a sequence are taken in order, each once."""
        if self.text is not None:
            return self.text
        detokenizer = self.sequence.detokenizer
        if detokenizer is None:
            return ""
        text = "" if self.token_id is None else detokenizer.add(self.token_id)
        return text if self.finish_reason is None else text + detokenizer.finish()


def accept(sequence: Sequence, token_id: int) -> SequenceUpdate:
    """Appends a token that was sampled, and says whether it is the last. It runs for each row of each step."""
    token_ids = sequence.token_ids
    token_ids.append(token_id)
    if sequence.has_stop_strings:
        return _accept_as_text(sequence, token_id)
    if token_id in sequence.stop_token_ids or len(token_ids) >= sequence.max_total_tokens:
        return SequenceUpdate(sequence, token_id, None, _end_by_token(sequence, token_id))
    return SequenceUpdate(sequence, token_id, None, None)


def _accept_as_text(sequence: Sequence, token_id: int) -> SequenceUpdate:
    detokenizer = sequence.detokenizer
    assert detokenizer is not None, "stop strings without a tokenizer"
    text, reason = detokenizer.add(token_id), _end_by_token(sequence, token_id)
    if detokenizer.stop_reason is not None and reason is not FinishReason.STOP:
        sequence.stop_reason, reason = detokenizer.stop_reason, FinishReason.STOP
    return SequenceUpdate(sequence, token_id, text if reason is None else text + detokenizer.finish(), reason)


def _end_by_token(sequence: Sequence, token_id: int) -> FinishReason | None:
    """Why the sequence ends with its newest token, whatever its text says."""
    if token_id in sequence.stop_token_ids:
        sequence.stop_reason = token_id if token_id in (sequence.params.stop_token_ids or ()) else None
        return FinishReason.STOP
    return FinishReason.LENGTH if len(sequence.token_ids) >= sequence.max_total_tokens else None
