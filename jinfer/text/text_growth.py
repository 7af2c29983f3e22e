"""How the text of a growing list of token ids grows: the part that is final, and the part that may still change.

Decoding is not concatenation. Three things may change text that was decoded from fewer ids, or depend on the ids
before it, and which of them occur depends on the tokenizer's decoder:

    ByteLevel (GPT-2, Llama 3, Qwen)    Tokens are bytes. A character is final with its last byte.
    ByteFallback (Llama 2, Gemma)       Tokens <0xNN> are bytes, others are text. A character is final with its last
                                        byte, a byte that fits nowhere with the next token: E2 82 | 41 -> "��A".
    Strip, Metaspace, WordPiece         The first token is treated differently (its leading space goes), the rest alike.

With ByteLevel the bytes of each token are decoded as they come. With the others a short window of ids is decoded
instead of all: an anchor, whose text is final and not empty, and the open ids after it. What the window's text adds to
the anchor's is the text of the open ids. For the decoders above this equals decoding everything, at a cost that depends
on the open ids alone, of which at most three are bytes. A decoder that is none of these is decoded whole, every time,
and its text is final only at the end.

The idea of a window of ids behind a final prefix is that of text-generation-inference's and vLLM's detokenizers; the
rules of what is final are derived from the decoders of the tokenizers library.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Protocol

from tokenizers import Tokenizer as Backend

from jinfer.text.utf8 import Utf8Stream, num_incomplete_bytes

MAX_INCOMPLETE = 3  # bytes of a character that lacks its last one

# Decoders that work token by token, except for what ByteFallback joins and for the first token.
_PIECEWISE = {"Replace", "ByteFallback", "Strip", "Metaspace", "WordPiece"}


class DecoderKind(Enum):
    """What is known about a tokenizer's decoder; see the module's docstring."""

    BYTES = "the tokens' bytes are concatenated and then decoded as UTF-8"
    PIECES = "the tokens' texts are concatenated; byte fallback tokens join to characters, the first token differs"
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
    joined_at = names.index("ByteFallback") if "ByteFallback" in names[:fused_at] else fused_at
    is_piecewise = _PIECEWISE.issuperset(names[:fused_at]) and all(map(_keeps_the_end, decoders[fused_at:]))
    if is_piecewise and all(map(_takes_characters, decoders[joined_at + 1 : fused_at])):
        return DecoderKind.PIECES
    return DecoderKind.UNKNOWN


def has_byte_fallback(backend: Backend) -> bool:
    """Whether tokens such as <0x0A> stand for bytes."""
    if backend.decoder is None:
        return False
    names = [decoder["type"] for decoder in _flatten(json.loads(backend.decoder.__getstate__()))]
    return "ByteFallback" in names[: names.index("Fuse") if "Fuse" in names else None]


def decoder_texts(backend: Backend) -> str:
    """Every text that the decoder's steps may put in, one behind the other, and the names of the steps."""
    if backend.decoder is None:
        return ""
    parts = _flatten(json.loads(backend.decoder.__getstate__()))
    return "".join(str(value) for part in parts for value in part.values())


def _flatten(decoder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        yield decoder
        return
    for part in decoder["decoders"]:
        yield from _flatten(part)


def _keeps_the_end(decoder: Mapping[str, Any]) -> bool:
    """Whether a decoder that sees the whole text at once (after Fuse) can change only its beginning."""
    return decoder["type"] == "Fuse" or (decoder["type"] == "Strip" and decoder["stop"] == 0)


def _takes_characters(decoder: Mapping[str, Any]) -> bool:
    """Whether a decoder that sees a run of bytes as one text (after ByteFallback) treats each character by itself."""
    return decoder["type"] == "Replace" and len(decoder["pattern"].get("String", "")) == 1


class Decodes(Protocol):
    """The part of a Tokenizer that text growth needs."""

    @property
    def decoder_kind(self) -> DecoderKind: ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes | None: ...

    def token_text(self, token_id: int) -> str: ...


class TextGrowth(Protocol):
    """The text of the ids pushed so far is all text that `push` returned, then `tentative()`.

    Ids that decoding skips must not be pushed: they neither add text nor end a run of bytes.
    """

    def begin(self, newest_first: Iterable[int]) -> None:
        """Goes on behind these ids, given from the last one back, as if they had been pushed. Takes no more of them
        than it needs. Comes before any push."""

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
    """Growth under DecoderKind.BYTES, in which a token reads the same behind any other."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._stream = Utf8Stream()

    def begin(self, newest_first: Iterable[int]) -> None:
        end = b""
        for token_id in newest_first:
            end = self._bytes_of(token_id) + end
            if len(end) >= MAX_INCOMPLETE:
                break
        self._stream.push(end[-MAX_INCOMPLETE:])

    def push(self, token_id: int) -> str:
        return self._stream.push(self._bytes_of(token_id))

    def tentative(self) -> str:
        return self._stream.incomplete.decode("utf-8", "replace")

    def last(self, token_ids: list[int]) -> str:
        data = self._stream.incomplete + b"".join(map(self._bytes_of, token_ids))
        return data.decode("utf-8", "replace")

    def _bytes_of(self, token_id: int) -> bytes:
        data = self._tokenizer.token_bytes(token_id)
        assert data is not None, "every token is bytes under ByteLevel"
        return data


class PiecesGrowth:
    """Growth under DecoderKind.PIECES."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._anchor_ids: list[int] = []
        self._anchor_text = ""
        self._is_anchored = False  # by an anchor that cannot be better
        self._open_ids: list[int] = []

    def begin(self, newest_first: Iterable[int]) -> None:
        """Takes the last ids that have text together, and the bytes behind them that are not a character yet."""
        ids = iter(newest_first)
        newest = list(islice(ids, MAX_INCOMPLETE))[::-1]
        num_closed = len(newest) - self._num_incomplete(newest)
        closed, incomplete = newest[:num_closed], newest[num_closed:]
        while not self._decode(closed) and (more := list(islice(ids, 1 + len(closed)))):
            closed = more[::-1] + closed
        for token_id in [*closed, *incomplete]:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        self._open_ids.append(token_id)
        num_closed = len(self._open_ids) - self._num_incomplete(self._open_ids)
        if not num_closed:
            return ""
        closed, incomplete = self._open_ids[:num_closed], self._open_ids[num_closed:]
        text = self._decode(self._anchor_ids + closed)[len(self._anchor_text) :]
        self._open_ids = self._close(closed, text) + incomplete
        return text

    def tentative(self) -> str:
        return self.last([])

    def last(self, token_ids: list[int]) -> str:
        new_ids = self._open_ids + token_ids
        return self._decode(self._anchor_ids + new_ids)[len(self._anchor_text) :] if new_ids else ""

    def _close(self, ids: list[int], text: str) -> list[int]:
        """The text of these ids is final: moves the anchor, and returns those of them that must stay open without one.

        Any closed ids may be dropped once an anchor stands for "not the first token". The anchor's text must not be
        empty, or the Strip decoder might strip it together with the text that follows, and a byte that begins a
        character is one for as long only as the byte that broke it off follows. The last id is the shortest possible
        anchor; a token that decodes to nothing by itself, such as a space, is none.
        """
        if self._is_anchored:
            return []
        if last_text := self._decode(ids[-1:]):
            self._set_anchor(ids[-1:], last_text)
        elif text and (not self._anchor_ids or self._num_incomplete(self._anchor_ids)):
            self._set_anchor(ids, self._decode(ids))
        if self._anchor_ids:
            return []
        # No text yet. A token that adds none wherever it stands matters only as the first one.
        return ids[:-1] if len(ids) > 1 and not self._tokenizer.token_text(ids[-1]) else ids

    def _set_anchor(self, ids: list[int], text: str) -> None:
        self._anchor_ids, self._anchor_text = ids, text
        self._is_anchored = len(ids) == 1 and not self._num_incomplete(ids)

    def _num_incomplete(self, token_ids: list[int]) -> int:
        """How many ids at the end are bytes of a character that the next ones may complete."""
        end = b""
        for token_id in token_ids[: -MAX_INCOMPLETE - 1 : -1]:
            data = self._tokenizer.token_bytes(token_id)
            if data is None:
                break
            end = data + end
        return num_incomplete_bytes(end) if end else 0

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


class UnknownGrowth:
    """Growth under DecoderKind.UNKNOWN: nothing is final before the end, and everything is decoded every time."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def begin(self, newest_first: Iterable[int]) -> None:
        self._ids = list(newest_first)[::-1]

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return ""

    def tentative(self) -> str:
        return self.last([])

    def last(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(self._ids + token_ids, skip_special_tokens=False)
