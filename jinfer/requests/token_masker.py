"""The protocol of what restricts a sequence's tokens: the engine's side of structured outputs."""

from collections.abc import Collection, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jinfer.errors import RequestError

TOKENS_PER_WORD = 32


def num_mask_words(vocab_size: int) -> int:
    """The number of uint32 words of a mask: one bit a token, and the bits behind the last token are 0."""
    return -(-vocab_size // TOKENS_PER_WORD)


def mask_of(token_ids: Collection[int], vocab_size: int) -> NDArray[np.uint32]:
    """The mask that allows some tokens of a vocabulary: uint32[num_mask_words(vocab_size)]."""
    bits = np.zeros(num_mask_words(vocab_size) * TOKENS_PER_WORD, np.uint8)
    bits[np.fromiter(token_ids, np.int64, len(token_ids))] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


def full_mask(vocab_size: int) -> NDArray[np.uint32]:
    """The mask that allows every token of a vocabulary."""
    bits = np.zeros(num_mask_words(vocab_size) * TOKENS_PER_WORD, np.uint8)
    bits[:vocab_size] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


def num_allowed(words: NDArray[np.uint32]) -> int:
    """The number of tokens that a mask allows."""
    return int(np.bitwise_count(words).sum())


def allows(words: NDArray[np.uint32], token_id: int) -> bool:
    """True for a token that a mask allows."""
    return bool(words[token_id // TOKENS_PER_WORD] >> np.uint32(token_id % TOKENS_PER_WORD) & 1)


class TokenMasker(Protocol):
    """The tokens that may come next in one sequence. One thread uses it at a time.

    Token t is bit t % 32, counted from the lowest, of word t // 32. The order of calls: `is_ready` until it
    is true; then `error`; then `fill` and `accept`, with `is_finished` and `error` after each `accept`. The
    first mask is that of the output's first token.
    """

    @property
    def is_ready(self) -> bool:
        """False while the restriction is still made, in another thread. Nothing else may be called before."""

    @property
    def error(self) -> RequestError | None:
        """The reason why the sequence's request must fail, and no other; None while all is well."""

    @property
    def is_finished(self) -> bool:
        """True if nothing but an end-of-sequence token may follow, or one has come: the sequence stops."""

    def fill(self, words: NDArray[np.uint32]) -> bool:
        """Write the mask of the next token into uint32[num_mask_words(vocab_size)], contiguous. False if no
        token is allowed; then `error` may say why."""

    def accept(self, token_id: int) -> None:
        """Take a token of the sequence. One that the last mask forbids becomes an `error`."""

    def copy(self) -> "TokenMasker":
        """An independent masker in the same state, for another sequence of the request."""


def forbid_tokens(words: NDArray[np.uint32], token_ids: Iterable[int]) -> bool:
    """Take tokens out of a mask, as min_tokens does with those that end an output. False if none is left."""
    for token_id in token_ids:
        words[token_id // TOKENS_PER_WORD] &= ~np.uint32(1 << token_id % TOKENS_PER_WORD)
    return bool(words.any())


def min_tokens_error(num_output_tokens: int, min_tokens: int) -> RequestError:
    """The error of a sequence whose structure is complete before min_tokens."""
    return RequestError(
        f"the structured output is complete after {num_output_tokens} tokens, and nothing may follow it; "
        f"min_tokens={min_tokens} must not exceed what the structure allows: lower it"
    )
