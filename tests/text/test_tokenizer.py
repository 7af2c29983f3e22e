"""Tokenizer's ids and texts, and conversations."""

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.tokenizer import Tokenizer
from tests.text.model_directories import FIXTURE, mt_bench_conversations, tokenizer_json, write_directory


def test_vocab_size_counts_added_tokens(tiny, qwen3, gpt2, stories):
    assert tiny["byte_level"].vocab_size == 256 + 8 + 4
    assert (qwen3.vocab_size, gpt2.vocab_size, stories.vocab_size) == (151669, 50257, 512)


def test_the_post_processor_decides_about_bos(stories, qwen3):
    assert stories.encode("Once") == [1, 403]
    assert stories.encode("Once", add_special_tokens=False) == [403]
    assert qwen3.encode("Once") == qwen3.encode("Once", add_special_tokens=False) == [12522]


def test_the_empty_text_is_bos_alone(stories, qwen3, from_files):
    assert stories.encode("") == [1]
    # bos_token_id of generation_config.json; nothing adds it to other texts.
    assert qwen3.encode("") == [151643]
    assert stories.encode("", add_special_tokens=False) == []


@pytest.mark.parametrize(("config", "expected"), [({"bos_token": "<s>"}, [1]), ({}, [1, 2])])
def test_the_empty_text_is_bos_alone_whatever_the_post_processor_adds(tmp_path, tiny, config, expected):
    backend_json = tokenizer_json(tiny)
    template = {"single": "<s> $A </s>", "pair": "<s> $A $B", "special_tokens": [("<s>", 1), ("</s>", 2)]}
    backend_json["post_processor"] = json.loads(processors.TemplateProcessing(**template).__getstate__())
    write_directory(tmp_path, backend_json, tokenizer_config=config)
    assert Tokenizer.from_directory(tmp_path).encode("") == expected


def test_the_empty_text_without_bos_is_refused(gpt2):
    with pytest.raises(RequestError, match=r"no BOS token.*at least one character"):
        gpt2.encode("")


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", b"bytes", None, ["a"]])
def test_what_is_not_unicode_text_is_refused(stories, text):
    with pytest.raises(RequestError, match=r"surrogate|must be a str"):
        stories.encode(text)


@pytest.mark.parametrize("token_id", [-1, 512, 2**40])
def test_ids_outside_the_vocabulary_are_refused(stories, token_id):
    for call in (lambda: stories.decode([5, token_id]), lambda: stories.token_text(token_id)):
        with pytest.raises(RequestError, match=rf"{token_id} is outside .* 0 to 511"):
            call()


def test_tokens_have_the_places_where_their_text_ends(qwen3, stories):
    text = "The cat ☃ sat.\n\nThe  dog!"
    for tokenizer in (qwen3, stories):
        token_ids, ends = tokenizer.encode_with_ends(text)
        assert token_ids == tokenizer.encode(text, add_special_tokens=False)
        assert ends == sorted(ends)
        assert ends[-1] == len(text)
        for index, end in enumerate(ends[:-1]):
            # Several tokens make up the snowman, and all of them end after it.
            if ends[index + 1] > end and text[end - 1] != "☃":
                assert tokenizer.decode(token_ids[: index + 1]).strip() == text[:end].strip()
    with pytest.raises(RequestError, match="lone surrogate"):
        qwen3.encode_with_ends("\ud800")


def test_special_tokens_inside_a_text_are_tokens(qwen3):
    ids = qwen3.encode("a<|im_end|><think>")
    assert ids == [64, 151645, 151667]
    assert qwen3.decode(ids) == "a<think>"  # <think> is an added token, and not a special one
    assert qwen3.decode(ids, skip_special_tokens=False) == "a<|im_end|><think>"


def test_decoding_does_not_clean_up_spaces(gpt2):
    text = "do n't , he said . ' s"
    assert gpt2.decode(gpt2.encode(text)) == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=20))
def test_any_bytes_survive(gpt2, stories, data):
    text = data.decode("utf-8", errors="replace")
    if text:
        assert gpt2.decode(gpt2.encode(text)) == text
        assert stories.decode(stories.encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize(
    ("name", "pieces", "texts"),
    [
        (
            "byte_level",
            ["he", "Ġa", "âĤ", "<|end|>", "日本 語"],
            ["he", " a", "\ufffd", "<|end|>", "日本 語"],
        ),
        ("llama", ["▁", "▁a", "<0x0A>", "</s>", ""], [" ", " a", "\n", "</s>", ""]),
        ("metaspace", ["▁a", "he"], [" a", "he"]),
        ("word_piece", ["he", "##llo"], [" he", "llo"]),
        ("no_decoder", ["▁a"], ["▁a"]),
        ("bpe_decoder", ["a</w>"], ["a"]),
    ],
)
def test_token_text_keeps_the_leading_space(tiny, name, pieces, texts):
    tokenizer = tiny[name]
    assert [tokenizer.token_text(tokenizer._backend.token_to_id(piece)) for piece in pieces] == texts


def test_a_gap_in_the_ids_has_no_text(tiny, tmp_path):
    backend_json = tokenizer_json(tiny, "no_decoder")
    backend_json["model"]["vocab"]["far"] = 99
    tokenizer = Tokenizer.from_directory(write_directory(tmp_path, backend_json))
    assert tokenizer.vocab_size == 100
    assert tokenizer.token_text(50) == tokenizer.decode([50]) == ""
    assert not tokenizer.has_text(50, skip_special_tokens=False)


def test_the_bytes_of_tokens_are_known(tiny, stories):
    assert [stories.token_bytes(i) for i in range(3, 259)] == [bytes([value]) for value in range(256)]
    assert sum(stories.token_bytes(i) is not None for i in range(512)) == 256
    # has the tokens, not the decoder
    assert not any(tiny["fused_replace"].token_bytes(i) for i in range(tiny["fused_replace"].vocab_size))
    byte_level = tiny["byte_level"]
    for piece, data in {
        "Ġa": b" a",
        "âĤ": b"\xe2\x82",
        "<|end|>": b"<|end|>",
        "日本 語": "日本 語".encode(),
    }.items():
        assert byte_level.token_bytes(byte_level._backend.token_to_id(piece)) == data


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    return [tokenizer._backend.token_to_id(f"<0x{value:02X}>") for value in data]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("あሴ🦄".encode(), "あሴ🦄"),
        ("あሴ🦄".encode()[:-1], "あሴ\ufffd\ufffd\ufffd"),
        ("あ".encode() + b"\xff" + "ሴ".encode(), "あ\ufffdሴ"),
        ("あ".encode()[1:] + b"A", "\ufffd\ufffdA"),
        (b"A\xe2\x82B", "A\ufffd\ufffdB"),
        (b"\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80!", "\ufffd" * 9 + "!"),  # a surrogate, overlong, too large
        ("\ufffd".encode(), "\ufffd"),
    ],
)
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_one_byte_that_fits_nowhere_is_one_replacement_character(tiny, name, data, text):
    assert tiny[name].decode(byte_ids(tiny[name], data)) == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=12))
def test_bytes_decode_as_in_sentencepiece(tiny, data):
    expected = "".join(
        "\ufffd" if "\udc80" <= character <= "\udcff" else character
        for character in data.decode("utf-8", "surrogateescape")
    )
    assert tiny["gemma"].decode(byte_ids(tiny["gemma"], data)) == expected
    if "\ufffd" not in expected:  # then the tokenizers library gives the same
        assert tiny["gemma"]._backend.decode(byte_ids(tiny["gemma"], data)) == expected


def test_a_conversation_becomes_ids_without_a_second_bos(from_files):
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = from_files(tokenizer_config={"bos_token": "<s>", "chat_template": template})
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}])
    assert ids == tokenizer.encode("<s>a", add_special_tokens=False)
    assert ids.count(1) == 1


def test_a_missing_chat_template_is_said_with_a_remedy(gpt2):
    with pytest.raises(TokenizerError, match=r"no chat template; pass a prompt.*chat_template\.jinja"):
        gpt2.apply_chat_template([{"role": "user", "content": "a"}])


def test_a_broken_chat_template_does_not_hinder_encoding(from_files):
    tokenizer = from_files(tokenizer_config={"chat_template": "{% if %}"})
    assert tokenizer.encode("a")
    with pytest.raises(TokenizerError, match="line 1"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}])


def test_qwen3_gives_transformers_ids_for_mt_bench(qwen3, shared_data):
    fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
    path = shared_data("prompts/mt_bench_question.jsonl")
    conversations = mt_bench_conversations(path, fixture["assistant_reply"])
    assert [prompt["question_id"] for prompt in fixture["prompts"]] == list(conversations)
    assert len(conversations) == 80
    for prompt in fixture["prompts"]:
        for messages, expected in zip(conversations[prompt["question_id"]], prompt["turns"], strict=True):
            ids = qwen3.apply_chat_template(messages)
            digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
            assert {"num_ids": len(ids), "sha256": digest} == expected
