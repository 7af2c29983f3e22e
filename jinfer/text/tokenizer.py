"""Text to token ids and back, around the tokenizers library."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer as Backend

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.chat_template import ChatTemplate, Message
from jinfer.text.decoder_kind import DecoderKind, decoder_kind, decoder_texts, has_byte_fallback
from jinfer.text.tokenizer_files import read_tokenizer_files
from jinfer.text.utf8 import REPLACEMENT_CHARACTER, byte_level_bytes, split_characters

# What the tokenizers library parses as a byte: "<0x", an unsigned hexadecimal number of two characters, ">".
# Its parser takes a plus sign for the first of the two.
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f+][0-9A-Fa-f]>")

# A piece that every known decoder leaves as it is. Put before a token, it makes that token not the first one,
# whose leading space some decoders remove.
NEUTRAL_PIECE = "x"


class Tokenizer:
    """A model's tokenizer; immutable, and safe to share between requests.

    Gives the ids that transformers' fast tokenizer gives for the same directory, with one exception: for the
    class LlamaTokenizer they are those of transformers 4 and of sentencepiece, since transformers 5 joins a
    leading space to one that the text begins with (transformers#47700). Text is decoded without clean-up of
    spaces. Errors: TokenizerError where the directory is at fault, RequestError where an argument is.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_template: str | Mapping[str, str] | None = None,
        default_bos_token_id: int | None = None,
        response_template: Any = None,
        directory: Path | None = None,
    ) -> None:
        """Wrap a tokenizer of the tokenizers library, which must not change from here on.

        special_tokens: texts by name, such as {"bos_token": "<s>"}; chat templates see them under these
        names. chat_template: the source of the chat template, or of several by name. default_bos_token_id:
        the BOS token where special_tokens has no bos_token. response_template: the description of the
        model's answers (see output_parsing.response_template), which is kept as it is. directory: where all
        of it was read from.
        """
        self.directory = directory
        self._backend = backend
        self._response_template = response_template
        self._special_tokens = dict(special_tokens or {})
        self._chat_templates = (
            {"default": chat_template} if isinstance(chat_template, str) else dict(chat_template or {})
        )
        self._compiled_templates: dict[
            str, ChatTemplate
        ] = {}  # by source, of the model's own as they are needed
        self._bos_token_id = self._id_of("bos_token")
        if self._bos_token_id is None:
            self._bos_token_id = default_bos_token_id
        self._eos_token_id = self._id_of("eos_token")
        self._decoder_kind = decoder_kind(backend)
        self._has_byte_fallback = has_byte_fallback(backend)
        ids = set(backend.get_vocab(with_added_tokens=True).values())
        self._vocab_size = 1 + max(ids, default=-1)
        self._gap_ids = frozenset(range(self._vocab_size)) - ids
        added_tokens = backend.get_added_tokens_decoder()
        self._special_token_ids = frozenset(
            token_id for token_id, token in added_tokens.items() if token.special
        )
        self._special_texts = tuple(token.content for token in added_tokens.values() if token.special)
        self._added_tokens = {token.content: token_id for token_id, token in added_tokens.items()}
        self._bytes_of_token: dict[int, bytes | None] = {}  # filled as tokens are met

    @classmethod
    def from_directory(cls, path: Path) -> "Tokenizer":
        """The tokenizer of a Hugging Face model directory; see tokenizer_files for what is read, and from
        where.

        Raises TokenizerError where tokenizer.json is missing, or a file is corrupt.
        """
        files = read_tokenizer_files(Path(path))
        return cls(
            files.backend,
            special_tokens=files.special_tokens,
            chat_template=files.chat_templates,
            default_bos_token_id=files.default_bos_token_id,
            response_template=files.response_template,
            directory=Path(path),
        )

    @property
    def vocab_size(self) -> int:
        """The largest id, added tokens included, plus one. The model's embedding may have more rows, as
        padding."""
        return self._vocab_size

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, or None where the model has none."""
        return self._bos_token_id

    @property
    def eos_token_id(self) -> int | None:
        """The tokenizer's own end token. generation_config.json may name more, which are not the tokenizer's
        matter."""
        return self._eos_token_id

    @property
    def chat_template(self) -> str | None:
        """The source of the chat template that is used without tools: the one named default, or the only
        one."""
        if len(self._chat_templates) == 1:
            return next(iter(self._chat_templates.values()))
        return self._chat_templates.get("default")

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """The sources of the model's chat templates, by name."""
        return MappingProxyType(self._chat_templates)

    @property
    def response_template(self) -> Any:
        """The model's description of its answers, as it brings it; None if it brings none."""
        return self._response_template

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Texts of special tokens by name, such as {"bos_token": "<s>"}."""
        return MappingProxyType(self._special_tokens)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The texts of the special tokens, as a text is written that they are found in."""
        return self._special_texts

    @property
    def added_tokens(self) -> Mapping[str, int]:
        """The ids of the tokens that are found in a text before all others, special or not, by their
        texts."""
        return MappingProxyType(self._added_tokens)

    @property
    def decoder_kind(self) -> DecoderKind:
        """The kind of the decoder."""
        return self._decoder_kind

    def to_json(self) -> str:
        """The text of a tokenizer.json, with the tokens that other files add; for another reader of it."""
        return self._backend.to_str()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text.

        add_special_tokens: let tokenizer.json's post-processor add what it adds, often a BOS token. A text
        without
            tokens, such as the empty one, then gives the BOS token alone. Without it, an empty text gives no
            ids.

        Raises RequestError where the text is not valid Unicode, or is empty and the model has no BOS token.
        """
        _check_text(text)
        ids = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        if not add_special_tokens or (text and ids):
            return ids
        if self._bos_token_id is not None:
            return [self._bos_token_id]
        if ids:
            return ids  # no BOS token, but the post-processor adds others
        raise RequestError(
            f"the text {text!r} has no tokens and the model has no BOS token to start from; give at least "
            "one character"
        )

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The token ids of a text, without special tokens that it does not name, and for each the index in
        the text after the last character that it stands for: the same for the tokens of one character.

        Raises RequestError where the text is not valid Unicode.
        """
        _check_text(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, [end for _, end in encoding.offsets]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids. Raises RequestError for an unknown id.

        Bytes that are in no character of UTF-8 become U+FFFD, and whole characters beside them stay: one for
        each byte where tokens such as <0x0A> stand for bytes, as sentencepiece decodes (the tokenizers
        library, and with it transformers, makes U+FFFD of all bytes beside one that fits nowhere); with
        ByteLevel decoders one for each longest part of a character.
        """
        for token_id in token_ids:
            self._check_id(token_id)
        text = self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        if self._has_byte_fallback and REPLACEMENT_CHARACTER in text:
            return self._decode_apart([i for i in token_ids if self.has_text(i, skip_special_tokens)])
        return text

    def _decode_apart(self, token_ids: Sequence[int]) -> str:
        """Decodes so that a byte that is in no character does not spoil those beside it."""
        pieces: list[str] = []
        for is_run, run in groupby(token_ids, key=lambda token_id: self.token_bytes(token_id) is not None):
            names = [self._piece(token_id) for token_id in run]
            pieces += _whole_characters(names) if is_run else names
        return self._backend.decoder.decode(pieces)

    def token_text(self, token_id: int) -> str:
        """The text of one token, as to show it in a list of tokens: with its leading space, special tokens as
        written.

        A token that holds a part of a character shows as U+FFFD. Raises RequestError for an unknown id.
        """
        self._check_id(token_id)
        piece = self._backend.id_to_token(token_id)
        decoder = self._backend.decoder
        if piece is None or decoder is None:
            return piece or ""
        if self._decoder_kind is DecoderKind.UNKNOWN:
            return decoder.decode([piece])
        return decoder.decode([NEUTRAL_PIECE, piece]).removeprefix(NEUTRAL_PIECE)

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes that a token of the vocabulary stands for, where bytes of several tokens make up a
        character: those of any token with ByteLevel, the one of a token such as <0x0A> with ByteFallback.
        None for other tokens."""
        try:
            return self._bytes_of_token[token_id]
        except KeyError:
            return self._bytes_of_token.setdefault(token_id, self._token_bytes(token_id))

    def _token_bytes(self, token_id: int) -> bytes | None:
        piece = self._piece(token_id)
        if self._decoder_kind is DecoderKind.BYTES:
            return byte_level_bytes(piece)
        return _byte_of(piece) if self._has_byte_fallback and BYTE_TOKEN.fullmatch(piece) else None

    def _piece(self, token_id: int) -> str:
        piece = self._backend.id_to_token(token_id)
        assert piece is not None, f"{token_id} is an id without a token"
        return piece

    def unwritable_character(self, text: str) -> str | None:
        """The first character of a text that no decoded text has, or None. It is None for all of Unicode
        where tokens stand for bytes."""
        if surrogate := next((character for character in text if "\ud800" <= character <= "\udfff"), None):
            return surrogate
        if self._decoder_kind is not DecoderKind.PIECES or self._has_byte_fallback:
            return None
        return next((character for character in text if character not in self._characters), None)

    @cached_property
    def _characters(self) -> frozenset[str]:
        """All that decoding may give: the characters of tokens, and what decoders put between them."""
        return frozenset("".join(self._backend.get_vocab()) + decoder_texts(self._backend) + " '")

    def has_text(self, token_id: int, skip_special_tokens: bool) -> bool:
        """True if decoding sees the token at all.

        False for special tokens that are skipped, and for ids without a token: gaps, and the padding rows of
        a model's embedding, which a model with random weights does pick. Raises RequestError for a negative
        id.
        """
        if token_id < 0:
            raise RequestError(f"token id {token_id} is negative; ids are 0 to {self._vocab_size - 1}")
        if skip_special_tokens and token_id in self._special_token_ids:
            return False
        return token_id < self._vocab_size and token_id not in self._gap_ids

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        /,
        *,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> list[int]:
        """The token ids of a conversation.

        chat_template: the name of one of the model's templates, or the source of another. None takes the one
        named
            tool_use where tools are given and there is one, else the one named default.
        tools, options: those of ChatTemplate.render.

        The template writes every special token itself, so none is added. Raises TokenizerError where the
        model has no chat template or a malformed one, and RequestError where the template refuses the
        messages.
        """
        template = self._template(chat_template, has_tools=tools is not None)
        return self.encode(template.render(messages, tools=tools, **options), add_special_tokens=False)

    def usual_template(self, *, has_tools: bool) -> str:
        """The source of the template that conversations get where none is named: tool_use if there are tools
        and such a template, else the default. Raises TokenizerError where the model has neither."""
        if has_tools and "tool_use" in self._chat_templates:
            return self._chat_templates["tool_use"]
        if self.chat_template is not None:
            return self.chat_template
        if self._chat_templates:
            raise TokenizerError(
                f"the model has the chat templates {', '.join(map(repr, self._chat_templates))} and none is "
                "named 'default'; name one with chat_template="
            )
        raise TokenizerError(
            "the model has no chat template; pass a prompt instead of messages, or put the template of its "
            "instruction-tuned version into the model directory as chat_template.jinja"
        )

    def _template(self, chosen: str | None, *, has_tools: bool) -> ChatTemplate:
        if chosen is not None and chosen not in self._chat_templates:
            return ChatTemplate(self._given_source(chosen), self._special_tokens)
        source = (
            self._chat_templates[chosen] if chosen is not None else self.usual_template(has_tools=has_tools)
        )
        if source not in self._compiled_templates:
            self._compiled_templates[source] = ChatTemplate(source, self._special_tokens)
        return self._compiled_templates[source]

    def _given_source(self, text: str) -> str:
        if not isinstance(text, str) or not ("{{" in text or "{%" in text):
            names = ", ".join(map(repr, self._chat_templates)) or "none"
            raise RequestError(
                f"chat_template={text!r} is neither the source of a template, which would have "
                f"{{{{ or {{% in it, nor "
                f"the name of one of the model's ({names}); give one of these, or a source"
            )
        return text

    def _id_of(self, name: str) -> int | None:
        content = self._special_tokens.get(name)
        return None if content is None else self._backend.token_to_id(content)

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self._vocab_size:
            raise RequestError(
                f"token id {token_id} is outside the vocabulary; give ids from 0 to {self._vocab_size - 1}"
            )


def _byte_of(piece: str) -> bytes:
    return bytes([int(piece[3:-1], 16)])


def _whole_characters(pieces: list[str]) -> list[str]:
    """Pieces of a run of bytes, with U+FFFD for each that is in no character.

    In: <0xE2> <0x82> <0xAC> <0x82>  Out: <0xE2> <0x82> <0xAC> \ufffd
    """
    whole: list[str] = []
    start = 0
    for character, size in split_characters(b"".join(map(_byte_of, pieces))):
        whole += [character] if character == REPLACEMENT_CHARACTER else pieces[start : start + size]
        start += size
    return whole


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise RequestError(f"a text must be a str, not {type(text).__name__}; decode bytes first")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"the text has the lone surrogate {text[error.start]!r} at character {error.start}, which is "
            "not valid Unicode; remove it, or decode the text with errors='replace'"
        ) from error
