"""The tokens that a model's configuration adds to those of tokenizer.json, and the ids that they get.

A token that tokenizer.json has keeps its id. The others get the next ids, in the order in which transformers
5 adds them, whatever ids the files name:

    1. added_tokens_decoder, or without it added_tokens.json, by rising id
    2. bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token
    3. other named tokens: entries such as image_token, and extra_special_tokens that is a mapping
    4. extra_special_tokens that is a list, or without it additional_special_tokens
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from jinfer.errors import TokenizerError

STANDARD_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

Token = str | AddedToken  # a string stands for a special token that strips nothing


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that tokenizer_config.json and special_tokens_map.json name."""

    named: Mapping[str, Token]
    extra: tuple[Token, ...]
    early_contents: frozenset[str]  # of those that are special in added_tokens.json too

    @classmethod
    def of(cls, config: Mapping[str, Any], special_tokens_map: Mapping[str, Any]) -> "SpecialTokens":
        """An entry of special_tokens_map wins over one of config, except that lists of extra tokens are
        joined, and that a string in config wins for names other than the standard ones."""
        older = {name: _token(entry, special=True) or entry for name, entry in special_tokens_map.items()}
        entries = {**config, **older}
        extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
        lists = [value for value in (extra, older.get("extra_special_tokens")) if isinstance(value, list)]
        listed = [entry for value in lists for entry in value]
        standard = {name: entries.get(name) for name in STANDARD_NAMES}
        strings = {name: entry for name, entry in _others(config).items() if isinstance(entry, str)}
        with_flags = {name: entry for name, entry in _others(config).items() if name not in strings}
        by_name = extra if isinstance(extra, dict) else {}
        named = {**standard, **with_flags, **_others(older), **strings, **by_name}
        tokens = {name: _token(entry) for name, entry in named.items()}
        early = [entry for entry in (*standard.values(), *listed) if not isinstance(entry, dict)]
        return cls(
            {name: token for name, token in tokens.items() if token is not None},
            _tokens(listed if lists else _list(entries.get("additional_special_tokens"))),
            frozenset(map(_text, _tokens(early))),
        )

    @property
    def texts(self) -> dict[str, str]:
        """The texts by name. In: {"bos_token": "<s>", "pad_token": null}  Out: {"bos_token": "<s>"}"""
        return {name: _text(token) for name, token in self.named.items()}


def add_tokens(backend: Backend, declared: Mapping[int, AddedToken], special: SpecialTokens) -> None:
    """Gives a tokenizer the tokens that are declared with an id, and then the special ones that it lacks.

    Every named token is special afterwards, whatever its own entry says.
    """
    present = backend.get_added_tokens_decoder()
    tokens: list[Token] = [declared[token_id] for token_id in sorted(declared)]
    contents = {token.content for token in present.values()} | set(map(_text, tokens))
    tokens += [
        token
        for token in dict.fromkeys((*special.named.values(), *special.extra))
        if _text(token) not in contents
    ]
    named = set(special.texts.values())
    backend.add_tokens(
        [
            _as_special(token) if isinstance(token, str) or token.content in named else token
            for token in tokens
        ]
    )


def tokens_of_decoder(entries: Mapping[str, Any]) -> dict[int, AddedToken]:
    """added_tokens_decoder, with integers for keys. Raises TokenizerError for a malformed entry."""
    tokens = {}
    for key, entry in entries.items():
        token = _token(entry) if isinstance(entry, dict) else None
        if not isinstance(token, AddedToken):
            raise TokenizerError(
                f"added_tokens_decoder maps {key} to {entry!r}; it must have a 'content'; correct it"
            )
        tokens[_as_id(key)] = token
    return tokens


def tokens_of_added_file(ids: Mapping[str, Any], special_contents: Collection[str]) -> dict[int, AddedToken]:
    """added_tokens.json, which gives ids by text. Raises TokenizerError for what is no id."""
    for text, token_id in ids.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise TokenizerError(
                f"added_tokens.json maps {text!r} to {token_id!r}; it must be a token id; correct it"
            )
    is_special = {text: text in special_contents for text in ids}
    return {
        token_id: AddedToken(text, special=is_special[text], normalized=not is_special[text])
        for text, token_id in ids.items()
    }


def _others(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The named tokens that only some models have, such as image_token."""
    return {
        name: entry
        for name, entry in entries.items()
        if name.endswith("_token") and name not in STANDARD_NAMES
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _tokens(entries: Iterable[Any]) -> tuple[Token, ...]:
    return tuple(token for token in map(_token, entries) if token is not None)


def _token(entry: Any, *, special: bool = False) -> Token | None:
    """A token that is given as a string or as an AddedToken's dictionary."""
    if isinstance(entry, AddedToken):
        return entry
    content = entry.get("content") if isinstance(entry, dict) else entry
    if not isinstance(content, str) or not content:
        return None
    if content is entry:
        return content
    flags = {name: bool(entry[name]) for name in FLAGS if name in entry}
    return AddedToken(content, **({**flags, "special": True} if special else flags))


def _as_id(text: str) -> int:
    if not text.isdecimal():
        raise TokenizerError(
            f"added_tokens_decoder has the key {text!r}, and its keys are token ids; correct it"
        )
    return int(text)


def _text(token: Token) -> str:
    return token if isinstance(token, str) else token.content


def _as_special(token: Token) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    return AddedToken(
        token.content, **{name: getattr(token, name) for name in FLAGS if name != "special"}, special=True
    )
