"""The meaning of tokenizer_class in tokenizer_config.json, beside tokenizer.json.

Only what a class of the models that jinfer serves adds: names of special tokens, and whether a text begins
with a space. The rest is what tokenizer.json says. For LlamaTokenizer, transformers 5 puts it aside and
builds a tokenizer of its own, which gives other ids where spaces follow an added token or each other; those
of tokenizer.json are the ids of transformers 4 and of sentencepiece, with which the models were trained.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer as Backend

from jinfer.errors import TokenizerError

_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
DEFAULT_NAMES: Mapping[str, Mapping[str, str]] = {
    "LlamaTokenizer": _LLAMA,
    "CodeLlamaTokenizer": _LLAMA,
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
}


def with_default_names(config: Mapping[str, Any], backend: Backend) -> dict[str, Any]:
    """tokenizer_config.json with the special tokens that its class names and that the vocabulary has."""
    names = DEFAULT_NAMES.get(_class_of(config), {})
    known = {name: text for name, text in names.items() if backend.token_to_id(text) is not None}
    return {**known, **config}


def check_prefix_space(config: Mapping[str, Any], backend: Backend) -> None:
    """Raises TokenizerError where add_prefix_space says otherwise than tokenizer.json, for a class that reads
    it."""
    wanted = config.get("add_prefix_space")
    if wanted is None or _class_of(config) not in DEFAULT_NAMES:
        return
    adds = any(map(_adds_a_space, _steps(json.loads(backend.to_str()))))
    if bool(wanted) != adds:
        raise TokenizerError(
            f"tokenizer_config.json has add_prefix_space={wanted!r}, and tokenizer.json "
            f"{'puts' if adds else 'does not put'} a space before a text, so that the ids are not those of "
            f"{config['tokenizer_class']}; save the tokenizer again with transformers: "
            f"AutoTokenizer.from_pretrained(directory).save_pretrained(directory), or remove the entry"
        )


def _class_of(config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_class")
    return name.removesuffix("Fast") if isinstance(name, str) else ""


def _steps(tokenizer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The normalizers and pre-tokenizers of a tokenizer.json, whichever sequences they are in."""
    steps = [tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")]
    for step in steps:
        if step is not None:
            yield step
            steps += [*step.get("normalizers", ()), *step.get("pretokenizers", ())]


def _adds_a_space(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme", "always") != "never"
    return step["type"] == "Prepend" or (step["type"] == "ByteLevel" and bool(step.get("add_prefix_space")))
