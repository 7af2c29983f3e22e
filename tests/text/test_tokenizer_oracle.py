"""Tokenizer against transformers, on real tokenizers and on directories of all kinds."""

import pytest

from jinfer.text.tokenizer import Tokenizer
from tests.text.model_directories import TEXTS, mt_bench_conversations, tokenizer_json, write_directory


@pytest.mark.oracle
def test_qwen3_gives_transformers_ids_for_mt_bench_live(qwen3, shared_data, auto_tokenizer):
    theirs = auto_tokenizer(shared_data("tokenizers/qwen3"))
    for conversation in mt_bench_conversations(
        shared_data("prompts/mt_bench_question.jsonl"), "Answer."
    ).values():
        for messages in conversation:
            expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            assert qwen3.apply_chat_template(messages) == expected
    for text in TEXTS:
        assert qwen3.encode(text) == theirs.encode(text)


@pytest.mark.oracle
@pytest.mark.parametrize("directory", ["tokenizers/gpt2", "models/stories260K"])
def test_ids_and_text_are_those_of_transformers(directory, shared_data, auto_tokenizer):
    ours, theirs = Tokenizer.from_directory(shared_data(directory)), auto_tokenizer(shared_data(directory))
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


def added(token_id: int, content: str, special: bool, **flags: bool) -> dict:
    off = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, "special": special, **off, **flags}


def without_id(token: dict) -> dict:
    return {key: value for key, value in token.items() if key != "id"}


CONTROL = [added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True)]
DIRECTORIES = {
    "add_bos_token is ignored": (CONTROL, {"add_bos_token": True, "bos_token": "<s>"}, None),
    "named, in the vocabulary only": (CONTROL[:1], {"bos_token": "<s>", "eos_token": "</s>"}, None),
    "named, not special": (
        [*CONTROL[:2], added(2, "</s>", False)],
        {"bos_token": "<s>", "eos_token": "</s>"},
        None,
    ),
    "redefined": (
        CONTROL,
        {"added_tokens_decoder": {"2": without_id(added(2, "</s>", False, lstrip=True))}},
        None,
    ),
    "redefined and named": (
        CONTROL,
        {"eos_token": "</s>", "added_tokens_decoder": {"2": without_id(added(2, "</s>", False))}},
        None,
    ),
    "extra": (CONTROL[:1], {"extra_special_tokens": ["<pad>", "</s>"]}, None),
    "extra by name": (CONTROL, {"extra_special_tokens": {"image_token": "<pad>"}}, None),
    "additional": (CONTROL[:1], {"additional_special_tokens": ["<pad>", "</s>"]}, None),
    "named by the model": (CONTROL, {"image_token": "<pad>"}, None),
    "special_tokens_map": (CONTROL, {"bos_token": "<s>"}, {"bos_token": "</s>", "eos_token": "<pad>"}),
    "special_tokens_map not read": (
        CONTROL,
        {"added_tokens_decoder": {"2": without_id(CONTROL[2])}, "bos_token": "<s>"},
        {"bos_token": "</s>", "eos_token": "<pad>"},
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("post_processor", [True, False])
@pytest.mark.parametrize("name", DIRECTORIES)
def test_a_directory_is_read_as_transformers_reads_it(name, post_processor, tiny, tmp_path, auto_tokenizer):
    added_tokens, config, special_tokens_map = DIRECTORIES[name]
    backend_json = {**tokenizer_json(tiny), "added_tokens": added_tokens}
    if not post_processor:
        backend_json["post_processor"] = None
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    extra_file = {} if special_tokens_map is None else {"special_tokens_map": special_tokens_map}
    write_directory(tmp_path, backend_json, tokenizer_config=config, **extra_file)
    ours, theirs = Tokenizer.from_directory(tmp_path), auto_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.bos_token_id, ours.eos_token_id) == (
        len(theirs),
        theirs.bos_token_id,
        theirs.eos_token_id,
    )
    for text in ("ab <s>b </s> a", "<pad>a", "a<think>"):
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
