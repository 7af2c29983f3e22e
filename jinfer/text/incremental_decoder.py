"""Text of a growing list of token ids: the part that is final, and the part that may still change.

Decoding is not concatenation. Three things may change text that was decoded from fewer ids, or depend on the
ids before it, and which of them occur depends on the tokenizer's decoder:

    ByteLevel (GPT-2, Llama 3, Qwen)    Tokens are bytes. A character is final with its last byte.
    ByteFallback (Llama 2, Gemma)       Tokens <0xNN> are bytes, others are text. A character is final with
                                        its last byte, a byte that fits nowhere with the next token: E2 82 |
                                        41 -> "��A".
    Strip, Metaspace, WordPiece         The first token is treated differently (its leading space goes), the
                                        rest alike.

With ByteLevel the bytes of each token are decoded as they come. With the others a short window of ids is
decoded instead of all: an anchor, whose text is final and not empty, and the open ids after it. What the
window's text adds to the anchor's is the text of the open ids. For the decoders above this equals decoding
everything, at a cost that depends on the open ids alone, of which at most three are bytes. A decoder that is
none of these is decoded whole, every time, and its text is final only at the end.

The idea of a window of ids after a final prefix is that of text-generation-inference's and vLLM's
detokenizers; the rules of what is final are derived from the decoders of the tokenizers library.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Protocol

from jinfer.text.decoder_kind import DecoderKind
from jinfer.text.utf8 import Utf8Stream, num_incomplete_bytes

MAX_INCOMPLETE = 3  # bytes of a character that lacks its last one


class Decodes(Protocol):
    """The part of a Tokenizer that an incremental decoder needs."""

    @property
    def decoder_kind(self) -> DecoderKind: ...

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def token_bytes(self, token_id: int) -> bytes | None: ...

    def token_text(self, token_id: int) -> str: ...


class IncrementalDecoder(Protocol):
    """The text of the ids pushed so far is all text that `push` returned, then `pending()`.

    Ids that decoding skips must not be pushed: they neither add text nor end a run of bytes.
    """

    def begin(self, newest_first: Iterable[int]) -> None:
        """Continues after these ids, given from the last one back, as if they had been pushed. Takes no more
        of them than it needs. Comes before any push."""

    def push(self, token_id: int) -> str:
        """Text that has become final with this token."""

    def pending(self) -> str:
        """Text after the final text, as it would be if no token followed."""

    def flush(self, token_ids: list[int]) -> str:
        """Text after the final text if these tokens follow and no other: the same as to push each, for one
        decoding instead of one per token."""


def incremental_decoder(tokenizer: Decodes) -> IncrementalDecoder:
    """The cheapest decoder that is exact for the tokenizer."""
    decoders: dict[DecoderKind, Callable[[Decodes], IncrementalDecoder]] = {
        DecoderKind.BYTES: ByteLevelDecoder,
        DecoderKind.PIECES: PiecewiseDecoder,
        DecoderKind.UNKNOWN: WholeDecoder,
    }
    return decoders[tokenizer.decoder_kind](tokenizer)


class ByteLevelDecoder:
    """The decoder of DecoderKind.BYTES, in which a token reads the same after any other."""

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

    def pending(self) -> str:
        return self._stream.incomplete.decode("utf-8", "replace")

    def flush(self, token_ids: list[int]) -> str:
        data = self._stream.incomplete + b"".join(map(self._bytes_of, token_ids))
        return data.decode("utf-8", "replace")

    def _bytes_of(self, token_id: int) -> bytes:
        data = self._tokenizer.token_bytes(token_id)
        assert data is not None, "every token is bytes under ByteLevel"
        return data


class PiecewiseDecoder:
    """The decoder of DecoderKind.PIECES."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._anchor_ids: list[int] = []
        self._anchor_text = ""
        self._is_anchored = False  # by an anchor that cannot be better
        self._open_ids: list[int] = []

    def begin(self, newest_first: Iterable[int]) -> None:
        """Takes the last ids that have text together, and the bytes after them that are not a character
        yet."""
        ids = iter(newest_first)
        newest = list(islice(ids, MAX_INCOMPLETE))[::-1]
        num_closed = len(newest) - self._num_incomplete(newest)
        closed = newest[:num_closed]
        incomplete = newest[num_closed:]
        while not self._decode(closed) and (more := list(islice(ids, 1 + len(closed)))):
            closed = more[::-1] + closed
        for token_id in [*closed, *incomplete]:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        self._open_ids.append(token_id)
        num_closed = len(self._open_ids) - self._num_incomplete(self._open_ids)
        if not num_closed:
            return ""
        closed = self._open_ids[:num_closed]
        incomplete = self._open_ids[num_closed:]
        text = self._decode(self._anchor_ids + closed)[len(self._anchor_text) :]
        self._open_ids = self._close(closed, text) + incomplete
        return text

    def pending(self) -> str:
        return self.flush([])

    def flush(self, token_ids: list[int]) -> str:
        new_ids = self._open_ids + token_ids
        return self._decode(self._anchor_ids + new_ids)[len(self._anchor_text) :] if new_ids else ""

    def _close(self, ids: list[int], text: str) -> list[int]:
        """The text of these ids is final: moves the anchor, and returns those of them that must stay open
        without one.

        Any closed ids may be dropped once an anchor stands for "not the first token". The anchor's text must
        not be empty, or the Strip decoder might strip it together with the text that follows, and a byte that
        begins a character is one for as long only as the byte that broke it off follows. The last id is the
        shortest possible anchor; a token that decodes to nothing by itself, such as a space, is none.
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
        self._anchor_ids = ids
        self._anchor_text = text
        self._is_anchored = len(ids) == 1 and not self._num_incomplete(ids)

    def _num_incomplete(self, token_ids: list[int]) -> int:
        """The number of ids at the end that are bytes of a character that the next ones may complete."""
        end = b""
        for token_id in token_ids[: -MAX_INCOMPLETE - 1 : -1]:
            data = self._tokenizer.token_bytes(token_id)
            if data is None:
                break
            end = data + end
        return num_incomplete_bytes(end) if end else 0

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


class WholeDecoder:
    """The decoder of DecoderKind.UNKNOWN: nothing is final before the end, and all is decoded every time."""

    def __init__(self, tokenizer: Decodes) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []

    def begin(self, newest_first: Iterable[int]) -> None:
        self._ids = list(newest_first)[::-1]

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return ""

    def pending(self) -> str:
        return self.flush([])

    def flush(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(self._ids + token_ids, skip_special_tokens=False)
