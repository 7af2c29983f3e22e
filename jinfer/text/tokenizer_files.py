"""Reads the files of a Hugging Face model directory that concern its tokenizer.

    tokenizer.json              the tokenizer itself; the one file that must exist
    tokenizer_config.json       names of the special tokens, flags of the added tokens, the chat template,
                                the response template
    special_tokens_map.json     older home of those names, and
    added_tokens.json           of tokens that tokenizer.json lacks; both are read only where
                                tokenizer_config.json has no added_tokens_decoder
    chat_template.jinja         the chat template, and
    additional_chat_templates/  named ones, *.jinja; these files win over
    chat_template.json          the same as one JSON value; wins over tokenizer_config.json
    generation_config.json      bos_token_id for a tokenizer that names no BOS token; then
    config.json                 the same

The rules are those that transformers 5 was seen to follow (the tests compare with it). Two of them surprise
people: `add_bos_token` in tokenizer_config.json is ignored, because the post-processor in tokenizer.json
decides about BOS; and every token that the configuration names is special, whatever tokenizer.json says. With
`split_special_tokens`, the text of a special token is no token. `tokenizer_class` names tokens (see
tokenizer_classes). Nothing here runs code from the directory: `auto_map` is not read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from jinfer.errors import TokenizerError
from jinfer.text.added_tokens import SpecialTokens, add_tokens, tokens_of_added_file, tokens_of_decoder
from jinfer.text.tokenizer_classes import check_prefix_space, with_default_names


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a model directory."""

    backend: Backend
    special_tokens: Mapping[str, str]  # {"bos_token": "<s>", ...}
    chat_templates: Mapping[str, str]  # by name; a single one is "default"
    response_template: Any  # of transformers, as it is; None if there is none
    default_bos_token_id: int | None  # from generation_config.json or config.json


def read_tokenizer_files(directory: Path) -> TokenizerFiles:
    """All of a directory's tokenizer files, or TokenizerError that names the file at fault and the remedy."""
    backend = _read_backend(directory / "tokenizer.json")
    config = with_default_names(_read_json(directory / "tokenizer_config.json"), backend)
    check_prefix_space(config, backend)
    if "added_tokens_decoder" in config:
        special = SpecialTokens.of(config, {})
        declared = tokens_of_decoder(config["added_tokens_decoder"] or {})
    else:
        special = SpecialTokens.of(config, _read_json(directory / "special_tokens_map.json"))
        declared = tokens_of_added_file(_read_json(directory / "added_tokens.json"), special.early_contents)
        declared |= backend.get_added_tokens_decoder()
    add_tokens(backend, declared, special)
    backend.encode_special_tokens = bool(config.get("split_special_tokens"))
    return TokenizerFiles(
        backend=backend,
        special_tokens=special.texts,
        chat_templates=_chat_templates(directory, config),
        response_template=config.get("response_template"),
        default_bos_token_id=_default_bos_token_id(directory),
    )


def _read_backend(path: Path) -> Backend:
    if not path.is_file():
        raise TokenizerError(
            f"there is no {path.name} in {path.parent}; pass token ids instead of text, or make the file "
            "from a slow tokenizer with transformers: "
            "AutoTokenizer.from_pretrained(directory).save_pretrained(directory)"
        )
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the tokenizers library raises Exception itself, with no narrower type
        raise TokenizerError(
            f"{path} is corrupt or newer than the installed tokenizers library: {error}; download it again "
            "or upgrade"
        ) from error
    # A prompt must never be cut or padded without the caller knowing; some published files ask for both.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path} is not valid JSON: {error}; download it again") from error
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{path} holds a JSON {type(value).__name__}, and must hold an object; download it again"
        )
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not valid UTF-8: {error}; download it again") from error


def _chat_templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    default = directory / "chat_template.jinja"
    named = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    files = {"default": default} if default.is_file() else {}
    files |= {path.name.removesuffix(".jinja"): path for path in named}
    if files:
        return {name: _read_text(path) for name, path in files.items()}
    in_json = _read_json(directory / "chat_template.json").get("chat_template")
    return _templates_by_name(in_json if in_json is not None else config.get("chat_template"))


def _templates_by_name(value: Any) -> dict[str, str]:
    """Templates given as one string, as a list of {"name", "template"}, or by name."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        if not all(isinstance(entry, dict) and {"name", "template"} <= entry.keys() for entry in value):
            raise TokenizerError(
                "chat_template is a list, whose entries must have a 'name' and a 'template'; correct it"
            )
        value = {entry["name"]: entry["template"] for entry in value}
    if not isinstance(value, dict) or not all(
        isinstance(text, str) for pair in value.items() for text in pair
    ):
        raise TokenizerError(
            f"chat_template is {value!r}; it must be a string, or strings by name; correct it"
        )
    return value


def _default_bos_token_id(directory: Path) -> int | None:
    generation, config = (_read_json(directory / name) for name in ("generation_config.json", "config.json"))
    of_text = config.get("text_config")  # of a multimodal model
    for entries in (generation, config, of_text if isinstance(of_text, Mapping) else {}):
        token_id = entries.get("bos_token_id")
        if isinstance(token_id, int) and not isinstance(token_id, bool):
            return token_id
    return None
