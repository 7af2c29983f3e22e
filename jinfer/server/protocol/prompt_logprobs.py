"""The log probabilities of a prompt's tokens, as vLLM gives them."""

import msgspec


class PromptLogprob(msgspec.Struct):
    """A token where the prompt has one. `rank` counts from 1 for the most likely, and is null for a token of
    the prompt that is none of these."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobsBody = list[dict[str, PromptLogprob] | None]
"""An entry for each token of the prompt, by token ids; null for the first."""
