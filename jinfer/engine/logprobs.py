"""Log probabilities of a step, kept in the sequences and the requests that want them."""

from jinfer.engine.steps import ChunkScores, StepOutput, TokenLogprobs
from jinfer.requests.request import Sequence

EXCLUDED_LOGPROB = -1e30
"""A lower log probability is of a token that the request's rules or filters exclude."""


def record_logprobs(sequences: list[Sequence | None], output: StepOutput) -> None:
    """Keeps the log probability of each sampled token, and those of the `params.logprobs` most likely
    tokens."""
    for row, found in output.logprobs.items():
        sequence = sequences[row]
        token_id = output.token_ids[row]
        if sequence is None or token_id is None:
            continue
        sequence.logprobs.append(_entry(found, token_id, sequence.params.logprobs))
        sequence.cumulative_logprob += found.logprob


def record_scores(scores: ChunkScores) -> None:
    """Keeps the log probability of each token of a prompt's chunk, and those of the most likely tokens."""
    request = scores.request
    assert request.prompt_logprobs is not None, "nobody wants them"
    for position, found in enumerate(scores.logprobs, scores.start):
        token_id = request.prompt_token_ids[position]
        request.prompt_logprobs[position] = _entry(found, token_id, request.params.prompt_logprobs)


def _entry(found: TokenLogprobs, token_id: int, count: int | None) -> dict[int, float]:
    """Log probabilities by token id: of the `count` most likely tokens that can be chosen at all, and of the
    token itself."""
    top = zip(found.top_token_ids[:count], found.top_logprobs[:count], strict=True)
    return {**{id: logprob for id, logprob in top if logprob > EXCLUDED_LOGPROB}, token_id: found.logprob}
