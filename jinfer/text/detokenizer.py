"""Token ids to text while they are generated, with stop strings."""

from collections.abc import Sequence

from jinfer.errors import RequestError
from jinfer.text.text_growth import REPLACEMENT_CHARACTER, text_growth
from jinfer.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one generated sequence, token by token.

    Without a stop string in it, everything that `add` returned, joined, plus `finish()`, is
    `tokenizer.decode(all ids, skip_special_tokens)`, where ids that have no token add nothing. What `add` returns is
    final: no later token changes it or makes it part of a stop string. With a decoder of a kind that is not known
    (text_growth lists those that are) nothing is final before `finish`.

    A stop string is found with the first token after which the decoded text contains one, text that is still held back
    included. Of those contained, the one that begins first counts, and of those the shortest. The text is cut before
    it, or after it with include_stop_str_in_output. It counts only if it ends after the text of the first min_tokens
    tokens (without U+FFFD at that text's end, which may stand for a character that is not yet complete).

    A token costs the decoding of the few ids whose text is not final yet, and a search in the text that is held back.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: tuple[str, ...] = (),
        include_stop_str_in_output: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
        context: Sequence[int] = (),
    ) -> None:
        """`context` is what the new tokens follow, such as the end of the prompt. Its own text is not given out, but
        it decides how the first token reads: decoders of the Llama kind drop the space before a first word."""
        if "" in stop:
            raise RequestError("a stop string is empty, and would stop before the first token; remove it")
        self._tokenizer = tokenizer
        self._stop = sorted(stop, key=len)
        self._include_stop = include_stop_str_in_output
        self._skip_special_tokens = skip_special_tokens
        self._min_tokens = min_tokens
        self._growth = text_growth(tokenizer)
        self._num_tokens = 0
        self._held = ""  # final text that is not given out, because a stop string may begin with it
        self._num_unsearched = 0  # a stop string may not end within so many characters from the start of _held
        self._pieces: list[str] = []
        self._stop_reason: str | None = None
        self._ended = False
        for token_id in context:
            if tokenizer.has_text(token_id, skip_special_tokens):
                self._growth.push(token_id)

    @property
    def text(self) -> str:
        """All text given out so far."""
        return "".join(self._pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens added so far."""
        return self._num_tokens

    @property
    def stop_reason(self) -> str | None:
        """The stop string that was found. `add` must not be called after that."""
        return self._stop_reason

    def add(self, token_id: int) -> str:
        """The text that may now be shown; often empty. Raises RequestError for a negative id."""
        assert not self._ended, "add() after finish() or after a stop string"
        has_text = self._tokenizer.has_text(token_id, self._skip_special_tokens)
        self._num_tokens += 1
        self._held += self._growth.push(token_id) if has_text else ""
        if not self._stop:
            return self._give_out(len(self._held))
        tentative = self._growth.tentative()
        if self._num_tokens > self._min_tokens and (found := self._find_stop(self._held + tentative)):
            return self._stop_at(self._held + tentative, *found)
        if self._num_tokens == self._min_tokens:
            self._num_unsearched = len(self._held) + len(tentative.rstrip(REPLACEMENT_CHARACTER))
        return self._give_out(len(self._held) - self._num_that_may_begin_stop())

    def finish(self, token_ids: Sequence[int] = ()) -> str:
        """What is still held back, for a sequence that ended without a stop string; nothing after one.

        `token_ids` are added first. That costs less than to add each, but no stop string is looked for in their text.
        """
        if self._ended:
            assert not token_ids, "finish() with tokens after the end"
            return ""
        assert not (token_ids and self._stop), "tokens in which a stop string may be"
        self._ended = True
        self._num_tokens += len(token_ids)
        self._held += self._growth.last(
            [i for i in token_ids if self._tokenizer.has_text(i, self._skip_special_tokens)]
        )
        return self._give_out(len(self._held))

    def _find_stop(self, text: str) -> tuple[int, str] | None:
        """Where the first stop string in the text begins, and which it is."""
        starts = ((text.find(stop, max(0, self._num_unsearched - len(stop) + 1)), stop) for stop in self._stop)
        return min((found for found in starts if found[0] >= 0), key=lambda found: found[0], default=None)

    def _stop_at(self, text: str, start: int, stop: str) -> str:
        self._stop_reason = stop
        self._ended = True
        self._held = text
        return self._give_out(start + len(stop) if self._include_stop else start)

    def _num_that_may_begin_stop(self) -> int:
        """The length of the longest end of the held text that is the beginning of a stop string.

        In: held "a\\n", stop "\\n\\n"  Out: 1
        """
        longest = min(len(self._held), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            end = self._held[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stop):
                return length
        return 0

    def _give_out(self, num_characters: int) -> str:
        piece, self._held = self._held[:num_characters], self._held[num_characters:]
        self._num_unsearched = max(0, self._num_unsearched - num_characters)
        if piece:
            self._pieces.append(piece)
        return piece
