"""Bodies of /tokenize, /detokenize and /tokenizer_info."""

from typing import Any

import msgspec


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Either a text, or a conversation that the model's chat template makes one of."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    return_token_strs: bool | None = None


class TokenizeResponse(msgspec.Struct):
    """The ids of a text, and their texts where they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Ids, special tokens among them."""

    tokens: list[int]
    model: str | None = None


class DetokenizeResponse(msgspec.Struct):
    """Their text."""

    prompt: str


class TokenizerInfo(msgspec.Struct):
    """The facts that lm-eval asks of a tokenizer."""

    vocab_size: int
    max_model_len: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
