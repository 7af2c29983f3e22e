"""The text of single tokens, for lists of log probabilities."""

from collections.abc import Mapping

from jinfer.requests.request import Request
from jinfer.server.protocol.prompt_logprobs import PromptLogprob, PromptLogprobsBody
from jinfer.text.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0  # in place of minus infinity, which JSON lacks: OpenAI's value, too


class TokenTexts:
    """Texts and bytes of tokens, each made once."""

    def __init__(self, tokenizer: Tokenizer | None, *, as_ids: bool = False) -> None:
        """`as_ids` names tokens by their ids, as in token_id:17, so that no two are alike."""
        self._tokenizer = tokenizer
        self._as_ids = as_ids or tokenizer is None

    def text(self, token_id: int) -> str:
        """The text of a token; '' for an id that has none."""
        if self._as_ids:
            return f"token_id:{token_id}"
        return self._text(token_id)

    def utf8(self, token_id: int) -> list[int]:
        """The bytes of a token, which may be a part of a character."""
        tokenizer = self._tokenizer
        if tokenizer is None or not tokenizer.has_text(token_id, False):
            return []
        own = tokenizer.token_bytes(token_id)
        return list(self._text(token_id).encode() if own is None else own)

    def _text(self, token_id: int) -> str:
        tokenizer = self._tokenizer
        if tokenizer is None or not tokenizer.has_text(token_id, False):
            return ""
        return tokenizer.token_text(token_id)


def prompt_logprobs_body(request: Request, texts: TokenTexts) -> PromptLogprobsBody | None:
    """The log probabilities of a request's prompt; None where they were not asked for."""
    count = request.params.prompt_logprobs
    if count is None:
        return None
    return [
        None
        if found is None
        else {
            str(token_id): PromptLogprob(logprob, place if place <= count else None, texts.text(token_id))
            for place, (token_id, logprob) in enumerate(likeliest(found, len(found)), start=1)
        }
        for found in request.prompt_logprobs or ()
    ]


def likeliest(logprobs: Mapping[int, float], count: int) -> list[tuple[int, float]]:
    """The `count` most likely tokens, the likeliest first."""
    ranked = sorted(logprobs.items(), key=lambda item: -item[1])
    return [(token_id, finite(logprob)) for token_id, logprob in ranked[:count]]


def finite(logprob: float) -> float:
    """The log probability as JSON can hold it."""
    return max(logprob, MIN_LOGPROB)
