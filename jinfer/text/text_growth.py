"""How the text of a growing list of token ids grows: the part that is final, and the part that may still change.

Decoding is not concatenation. Three things may change text that was decoded from fewer ids, or depend on the ids
before it, and which of them occur depends on the tokenizer's decoder:

    ByteLevel (GPT-2, Llama 3, Qwen)    Tokens are bytes. Text ends in U+FFFD while a character's bytes are incomplete.
    ByteFallback (Llama 2, Gemma)       A run of tokens <0xNN> decodes as a whole: E2 82 AC -> "€", E2 82 -> "��".
                                        One invalid byte turns the whole run into U+FFFD, so only the end of the run
                                        makes its text final.
    Strip, Metaspace, WordPiece         The first token is treated differently (its leading space goes), the rest alike.

So a short window of ids is decoded instead of all: an anchor, whose text is final and not empty, and the open ids after
it. What the window's text adds to the anchor's is the text of the open ids. For the decoders above this equals
decoding everything, at a cost that depends on the open ids alone. A decoder that is none of these is decoded whole,
every time, and its text is final only at the end.

The idea of a window of ids behind a final prefix is that of text-generation-inference's and vLLM's detokenizers; the
rules of what is final are derived from the decoders of the tokenizers library.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any, Protocol

from tokenizers import Tokenizer as Backend

REPLACEMENT_CHARACTER = "\ufffd"

# Decoders that work token by token, except for what ByteFallback joins and for the first token.
_PIECEWISE = {"Replace", "ByteFallback", "Strip", "Metaspace", "WordPiece"}


class DecoderKind(Enum):
    """What is known about a tokenizer's decoder; see the module's docstring."""

    BYTES = "the tokens' bytes are concatenated and then decoded as UTF-8"
    PIECES = "the tokens' texts are concatenated; runs of byte fallback tokens count as one, the first token differs"
    UNKNOWN = "a later token may change all text before it"


def decoder_kind(backend: Backend) -> DecoderKind:
    """The kind of a tokenizer's decoder. A tokenizer without one joins its tokens with spaces, which is piecewise."""
    if backend.decoder is None:
        return DecoderKind.PIECES
    decoders = list(_flatten(json.loads(backend.decoder.__getstate__())))
    names = [decoder["type"] for decoder in decoders]
    if names == ["ByteLevel"]:
        return DecoderKind.BYTES
    fused_at = names.index("Fuse") if "Fuse" in names else len(names)
    if _PIECEWISE.issuperset(names[:fused_at]) and all(map(_keeps_the_end, decoders[fused_at:])):
        return DecoderKind.PIECES
    return DecoderKind.UNKNOWN


def has_byte_fallback(backend: Backend) -> bool:
    """Whether tokens such as <0x0A> stand for bytes."""
    if backend.decoder is None:
        return False
    return any(part["type"] == "ByteFallback" for part in _flatten(json.loads(backend.decoder.__getstate__())))


def _flatten(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for part in decoder["decoders"]:
        yield from _flatten(part)


def _keeps_the_end(decoder: Mapping[str, Any]) -> bool:
    """Whether a decoder that sees the whole text at once (after Fuse) can change only its beginning."""
    return decoder["type"] == "Fuse" or (decoder["type"] == "Strip" and decoder["stop"] == 0)


class Decodes(Protocol):
    """The part of a Tokenizer that text growth needs."""

    @property
    def decoder_kind(self) -> DecoderKind: ...

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str: ...

    def is_byte_fallback(self, token_id: int) -> bool: ...


class TextGrowth(Protocol):
    """The text of the ids pushed so far is all text that `push` returned, then `tentative()`.

    Ids that decoding skips must not be pushed: they neither add text nor end a run of bytes.
    """

    def push(self, token_id: int) -> str:
        """Text that has become final with this token."""

    def tentative(self) -> str:
        """Text after the final text, as it would be if no token followed."""

    def last(self, token_ids: list[int]) -> str:
        """Text after the final text, if these tokens followed and no other: the same as to push them, at the price of
        one decoding in place of one for each."""


def text_growth(tokenizer: Decodes) -> TextGrowth:
    """The cheapest growth that is exact for the tokenizer's decoder."""
    growths: dict[DecoderKind, Callable[[Decodes], TextGrowth]] = {
        DecoderKind.BYTES: BytesGrowth,
        DecoderKind.PIECES: PiecesGrowth,
        DecoderKind.UNKNOWN: UnknownGrowth,
    }
    return growths[tokenizer.decoder_kind](tokenizer)


class BytesGrowth:
    """Growth under DecoderKind.BYTES. Needs no anchor: text splits wherever a character ends."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._open_ids: list[int] = []
        self._open_text = ""  # empty, or ends in U+FFFD

    def push(self, token_id: int) -> str:
        self._open_ids.append(token_id)
        text = self._decode(self._open_ids)
        if not text.endswith(REPLACEMENT_CHARACTER):
            self._open_ids, self._open_text = [], ""
            return text
        last = self._decode([token_id])
        # Had the new bytes continued the old ones, both together would decode to fewer characters than apart:
        # E2 | 82 -> "�" but "�" + "�". So where the texts add up, a character ends between them whatever follows.
        # This keeps the open ids few in an endless run of invalid bytes.
        if last and self._open_text and self._open_text + last == text:
            final, self._open_ids, self._open_text = self._open_text, [token_id], last
            return final
        self._open_text = text
        return ""

    def tentative(self) -> str:
        return self._open_text

    def last(self, token_ids: list[int]) -> str:
        return self._decode(self._open_ids + token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


class PiecesGrowth:
    """Growth under DecoderKind.PIECES."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._anchor_ids: list[int] = []
        self._anchor_text = ""
        self._open_ids: list[int] = []

    def push(self, token_id: int) -> str:
        self._open_ids.append(token_id)
        if self._tokenizer.is_byte_fallback(token_id):
            return ""  # the run is open, and not decoded until it ends
        text = self.tentative()
        self._close(token_id, text)
        return text

    def tentative(self) -> str:
        return self.last([])

    def last(self, token_ids: list[int]) -> str:
        new_ids = self._open_ids + token_ids
        return self._decode(self._anchor_ids + new_ids)[len(self._anchor_text) :] if new_ids else ""

    def _close(self, last_id: int, text: str) -> None:
        """All open text is final: move the anchor and drop the open ids.

        Any closed ids may be dropped once an anchor stands for "not the first token", and the anchor's text must not be
        empty, or the Strip decoder might strip it together with the text that follows. The last id is the shortest
        possible anchor; a token that decodes to nothing by itself, such as a space, is none.
        """
        if len(self._anchor_ids) != 1 and (last_text := self._decode([last_id])):
            self._anchor_ids, self._anchor_text = [last_id], last_text
        elif not self._anchor_ids and text:
            self._anchor_ids, self._anchor_text = self._open_ids, text
        if self._anchor_ids:
            self._open_ids = []

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


class UnknownGrowth:
    """Growth under DecoderKind.UNKNOWN: nothing is final before the end, and everything is decoded every time."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return ""

    def tentative(self) -> str:
        return self.last([])

    def last(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(self._ids + token_ids, skip_special_tokens=False)
