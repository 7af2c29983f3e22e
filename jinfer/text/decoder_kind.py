"""The kinds of decoders of the tokenizers library, by how text that was decoded may still change."""

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from tokenizers import Tokenizer as Backend

# Decoders that work token by token, except for bytes that ByteFallback joins and for the first token.
_PIECEWISE = {"Replace", "ByteFallback", "Strip", "Metaspace", "WordPiece"}


class DecoderKind(Enum):
    """The kind of a tokenizer's decoder; incremental_decoder.py has a decoder for each."""

    BYTES = "the tokens' bytes are concatenated and then decoded as UTF-8"
    PIECES = (
        "the tokens' texts are concatenated; byte fallback tokens join to characters, the first token differs"
    )
    UNKNOWN = "a later token may change all text before it"


def decoder_kind(backend: Backend) -> DecoderKind:
    """The kind of a tokenizer's decoder. A tokenizer without one joins its tokens with spaces, which is
    piecewise."""
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
    """True if tokens such as <0x0A> stand for bytes."""
    if backend.decoder is None:
        return False
    names = [decoder["type"] for decoder in _flatten(json.loads(backend.decoder.__getstate__()))]
    return "ByteFallback" in names[: names.index("Fuse") if "Fuse" in names else None]


def decoder_texts(backend: Backend) -> str:
    """Every text that the decoder's steps may insert, joined, and the names of the steps."""
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
    """True if a decoder that sees the whole text at once (after Fuse) can change only its beginning."""
    return decoder["type"] == "Fuse" or (decoder["type"] == "Strip" and decoder["stop"] == 0)


def _takes_characters(decoder: Mapping[str, Any]) -> bool:
    """True if a decoder that sees a run of bytes as one text (after ByteFallback) treats each character by
    itself."""
    return decoder["type"] == "Replace" and len(decoder["pattern"].get("String", "")) == 1
