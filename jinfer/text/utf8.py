"""Bytes that arrive one token at a time, and the characters that they make."""

import codecs

REPLACEMENT_CHARACTER = "\ufffd"

# As GPT-2's byte-level BPE writes bytes: those of printable characters of Latin-1 as that character, the
# others, in order, as the characters from U+0100 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF_CHARACTER = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + n): byte for n, byte in enumerate(_OTHERS)
}

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


def byte_level_bytes(piece: str) -> bytes:
    """The bytes of a token under the ByteLevel decoder: a character for each, or else the token's text as it
    is."""
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in piece])
    except KeyError:
        return piece.encode()


def num_incomplete_bytes(data: bytes) -> int:
    """The number of bytes at the end that begin a character which the next bytes may complete: 0 to 3.

    In: E2 82 AC E2 82  Out: 2
    """
    decoder = _utf8_decoder("replace")
    decoder.decode(data[-3:])
    return len(decoder.getstate()[0])


def split_characters(data: bytes) -> list[tuple[str, int]]:
    """The characters of UTF-8, each with the number of its bytes; a byte in no character is one U+FFFD.

    In: E2 82 AC 82 41  Out: [("€", 3), ("�", 1), ("A", 1)]

    One U+FFFD for each such byte is the rule of sentencepiece and of the ByteFallback decoder.
    """
    # The error handler makes one lone surrogate of each byte that is in no character.
    characters = data.decode("utf-8", "surrogateescape")
    return [
        (REPLACEMENT_CHARACTER, 1)
        if "\udc80" <= character <= "\udcff"
        else (character, len(character.encode()))
        for character in characters
    ]


class Utf8Stream:
    """Text of bytes as they come, with one U+FFFD for each longest part of a character that is not
    completed."""

    def __init__(self) -> None:
        self._decoder = _utf8_decoder("replace")
        # Characters that are final with these bytes; one call less for each token.
        self.push = self._decoder.decode

    @property
    def incomplete(self) -> bytes:
        """The bytes at the end that may still become a character."""
        return self._decoder.getstate()[0]
