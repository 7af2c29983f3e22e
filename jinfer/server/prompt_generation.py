"""Generations of no tokens, for clients that want the prompt alone: its echo, its count, its check."""

from jinfer.requests.request import FinishReason
from jinfer.server.generation import Generation, Piece, Usage

ENDS_OF_A_TOKEN = (FinishReason.STOP, FinishReason.LENGTH)


class PromptGeneration(Generation):
    """A generation of requests of one token each, which the engine computes with the prompt and which is left
    out here."""

    def usage(self, last: Piece | None = None) -> Usage:
        """Tokens of the prompts alone."""
        return super().usage(last)._replace(num_output_tokens=0)

    async def take(self) -> list[Piece]:
        """Waits for pieces without tokens, one for each choice. Raises what `Generation.take` raises."""
        return list(map(_without_token, await super().take()))


def _without_token(piece: Piece) -> Piece:
    has_ended = piece.finish_reason in ENDS_OF_A_TOKEN
    reason = FinishReason.LENGTH if has_ended else piece.finish_reason
    return Piece(piece.choice, "", (), None, reason, None)
