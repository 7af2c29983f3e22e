"""Bad words as the tokens that must not follow one another."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from jinfer.errors import RequestError, shown
from jinfer.text.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class BadWords:
    """The last tokens of sequences that an output must not contain, by the tokens before them.

    In: "cat" with the tokens (7, 8), "dog" with (9,)  Out: {(7,): {8}, (): {9}}
    """

    last_ids: Mapping[tuple[int, ...], frozenset[int]]

    @classmethod
    def of(cls, words: Iterable[str], tokenizer: Tokenizer, vocab_size: int) -> "BadWords":
        """The tokens of each text at the beginning of an output and behind a space. Raises RequestError for
        one without tokens, or with a token that the model has no logit of."""
        last_ids: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for word in words:
            bare = word.lstrip() or word
            for text in (bare, f" {bare}"):
                *before, last = _token_ids(text, tokenizer, vocab_size)
                last_ids[tuple(before)].add(last)
        return cls({before: frozenset(last) for before, last in last_ids.items()})

    @property
    def single_ids(self) -> frozenset[int]:
        """The tokens that are a bad word alone, and so never allowed."""
        return self.last_ids.get((), frozenset())

    @cached_property
    def lengths(self) -> list[int]:
        """The numbers of tokens that may stand before a last one, none aside."""
        return sorted({len(before) for before in self.last_ids} - {0})

    def forbidden_after(self, token_ids: Sequence[int]) -> frozenset[int]:
        """The tokens that would end a bad word of several tokens behind an output."""
        found = (
            self.last_ids.get(tuple(token_ids[-length:]), frozenset())
            for length in self.lengths
            if length <= len(token_ids)
        )
        return frozenset().union(*found)


def _token_ids(text: str, tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    if not token_ids:
        raise RequestError(
            f"bad_words has {shown(text)}, which the tokenizer makes no tokens of; leave it out",
            param="bad_words",
        )
    if max(token_ids) >= vocab_size:
        raise RequestError(
            f"bad_words has {shown(text)} with token id {max(token_ids)}, and the model has {vocab_size} "
            "logits; leave it out",
            param="bad_words",
        )
    return token_ids
