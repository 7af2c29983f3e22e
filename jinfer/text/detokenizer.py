"""Token ids to text while they are generated, with stop strings."""

from collections.abc import Collection, Sequence

from jinfer.errors import RequestError
from jinfer.text.decoder_kind import DecoderKind
from jinfer.text.incremental_decoder import incremental_decoder
from jinfer.text.placed_token import PlacedToken
from jinfer.text.stop_search import Found, StopSearch
from jinfer.text.tokenizer import Tokenizer
from jinfer.text.utf8 import REPLACEMENT_CHARACTER


class Detokenizer:
    """The text of one generated sequence, token by token.

    Without a stop string in it, everything that `add` returned, joined, plus `finish()`, is what
    `tokenizer.decode(context + ids, skip_special_tokens)` adds to `tokenizer.decode(context,
    skip_special_tokens)`, where ids that have no token add nothing. What it adds begins where the two texts
    part: a character whose bytes begin in the context and end in the output is the output's, though the
    context's text has U+FFFD for them.

    What `add` returns is final: no later token changes it or makes it part of a stop string. A character is
    given out with its last byte. If the kind of the decoder is unknown (DecoderKind lists the kinds), nothing
    is final before `finish`.

    A stop string is found with the first token after which the decoded text contains one, text that is still
    held back included. Of those contained, the one that begins first counts, and of those the shortest. The
    text is cut before it, or after it with include_stop_str_in_output. It counts only if it ends after the
    text of the first min_tokens tokens (without U+FFFD at that text's end, which may stand for a character
    that is not yet complete).

    A stop string that contains the text of a special token is looked for in the text with special tokens as
    well, where skip_special_tokens leaves them out; the text that is given out stays without them.

    The places of tokens in the text are noted on request, for a parser that goes by tokens. The text of such
    a token is given out whole, unless a stop string cuts it.

    A token costs the decoding of the few ids whose text is not final yet, and a search in the text that is
    held back.
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
        placed_token_ids: Collection[int] = frozenset(),
    ) -> None:
        """`context` is what the new tokens follow: the whole prompt, of which no more is looked at than
        needed. Its own text is not given out, and no stop string is looked for in it, but it decides how the
        first token reads: decoders of the Llama kind drop the space before a first word.

        `placed_token_ids` are the added tokens whose places are noted. Where the kind of the decoder is
        unknown there are no places.

        Raises RequestError for a stop string that is empty, or has a character that no text of the tokenizer
        has."""
        _check_stop(stop, tokenizer)
        self._tokenizer = tokenizer
        self._include_stop = include_stop_str_in_output
        self._skip_special_tokens = skip_special_tokens
        self._min_tokens = min_tokens
        self._searches = [StopSearch(stop)] if stop else []
        self._special_search = self._search_among_special_tokens(stop) if skip_special_tokens else None
        if self._special_search is not None:
            self._searches.append(self._special_search)
        self._decoder = incremental_decoder(tokenizer)
        self._decoder.begin(token_id for token_id in reversed(context) if self._has_text(token_id))
        self._context_end = self._decoder.pending()  # the context's text that the next tokens may change
        has_places = tokenizer.decoder_kind is not DecoderKind.UNKNOWN
        self._placed_token_ids = placed_token_ids if has_places else frozenset()
        self._placed_tokens: list[PlacedToken] = []
        self._num_given = 0  # characters given out
        self._num_tokens = 0
        self._held = ""  # final text that is not given out, because a stop string may begin with it
        self._pieces: list[str] = []
        self._stop_reason: str | None = None
        self._ended = False

    @property
    def text(self) -> str:
        """All text given out so far."""
        return "".join(self._pieces)

    @property
    def num_tokens(self) -> int:
        """Tokens added so far."""
        return self._num_tokens

    @property
    def placed_tokens(self) -> Sequence[PlacedToken]:
        """The places noted so far, in order, in the text from its beginning: those in text that is still held
        back, or that a stop string cut off, included."""
        return self._placed_tokens

    @property
    def stop_reason(self) -> str | None:
        """The stop string that was found. `add` must not be called after that."""
        return self._stop_reason

    def add(self, token_id: int) -> str:
        """The text that may now be shown; often empty. Raises RequestError for a negative id."""
        assert not self._ended, "add() after finish() or after a stop string"
        self._num_tokens += 1
        if has_text := self._has_text(token_id):
            self._held += self._take(self._decoder.push(token_id))
        if token_id in self._placed_token_ids:
            self._place(token_id, has_text)
        if not self._searches:
            return self._give_out(len(self._held))
        text = self._held + self._own(self._decoder.pending())
        if self._special_search is not None and not has_text and self._tokenizer.has_text(token_id, False):
            self._special_search.insert(len(text), self._tokenizer.token_text(token_id))
        if self._num_tokens > self._min_tokens and (found := self._find(text)):
            return self._stop_at(text, found)
        self._mark_searched(text)
        num_open = max(search.num_open(self._held) for search in self._searches)
        return self._give_out(self._without_cut_token(len(self._held) - num_open))

    def finish(self, token_ids: Sequence[int] = ()) -> str:
        """The text that is still held back, for a sequence that ended without a stop string; nothing after
        one.

        `token_ids` are added first. That costs less than to add each, but no stop string is looked for in
        their text.
        """
        if self._ended:
            assert not token_ids, "finish() with tokens after the end"
            return ""
        assert not (token_ids and self._searches), "tokens in which a stop string may be"
        if any(token_id in self._placed_token_ids for token_id in token_ids):
            return "".join(map(self.add, token_ids)) + self.finish()
        self._ended = True
        self._num_tokens += len(token_ids)
        self._held += self._take(self._decoder.flush([i for i in token_ids if self._has_text(i)]))
        return self._give_out(len(self._held))

    def _has_text(self, token_id: int) -> bool:
        return self._tokenizer.has_text(token_id, self._skip_special_tokens)

    def _search_among_special_tokens(self, stop: tuple[str, ...]) -> StopSearch | None:
        special_texts = self._tokenizer.special_texts if stop else ()
        with_special = [word for word in stop if any(text in word for text in special_texts)]
        return StopSearch(with_special) if with_special else None

    def _take(self, text: str) -> str:
        """The part of new text that is the output's own."""
        own = self._own(text)
        if text:
            self._context_end = ""
        return own

    def _own(self, text: str) -> str:
        return _from_where_it_parts(text, self._context_end) if self._context_end else text

    def _place(self, token_id: int, has_text: bool) -> None:
        text = self._tokenizer.token_text(token_id) if has_text else ""
        end = self._num_given + len(self._held)
        if self._held.endswith(text):
            self._placed_tokens.append(PlacedToken(token_id, end - len(text), end))

    def _without_cut_token(self, num_characters: int) -> int:
        """Fewer characters of the held text, if that many end within a token whose place is noted."""
        end = self._num_given + num_characters
        for token in reversed(self._placed_tokens):
            if token.end <= end:
                break
            end = min(end, token.start)
        return end - self._num_given

    def _find(self, text: str) -> Found | None:
        found = [one for search in self._searches if (one := search.find(text)) is not None]
        return min(found) if found else None

    def _mark_searched(self, text: str) -> None:
        num_stable = max(len(self._held), len(text.rstrip(REPLACEMENT_CHARACTER)))
        for search in self._searches:
            search.move_back(num_stable)
            search.mark_searched(num_stable if self._num_tokens == self._min_tokens else len(self._held))

    def _stop_at(self, text: str, found: Found) -> str:
        self._stop_reason = found.stop
        self._ended = True
        self._held = text
        return self._give_out(found.end if self._include_stop else found.start)

    def _give_out(self, num_characters: int) -> str:
        piece = self._held[:num_characters]
        self._held = self._held[num_characters:]
        self._num_given += num_characters
        for search in self._searches:
            search.drop(num_characters)
        if piece:
            self._pieces.append(piece)
        return piece


def _check_stop(stop: tuple[str, ...], tokenizer: Tokenizer) -> None:
    if "" in stop:
        raise RequestError("a stop string is empty, and would stop before the first token; remove it")
    for word in stop:
        if (character := tokenizer.unwritable_character(word)) is not None:
            raise RequestError(
                f"the stop string {word!r} has the character {character!r}, which no text of this tokenizer "
                "has: it would never stop anything; remove it, or give the ids to stop at as stop_token_ids"
            )


def _from_where_it_parts(text: str, other: str) -> str:
    """The text from its first character that differs. In: "a€b", "a\ufffd"  Out: "€b" """
    if text.startswith(other):
        return text[len(other) :]
    pairs = enumerate(zip(text, other, strict=False))
    return text[next((index for index, (one, two) in pairs if one != two), len(text)) :]
