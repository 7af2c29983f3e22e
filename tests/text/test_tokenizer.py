"""Tokenizer and what it reads from a model directory, by itself and against transformers."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.tokenizer import Tokenizer

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "qwen3_chat_ids.json"
TEXTS = [
    "Hello world",
    " two  spaces ",
    "tab\tand\r\nlines\n\n\n",
    "naïve café, cafe\u0301",
    "日本語 한국어 العربية",
    "🦄👩‍👩‍👧‍👦🇫🇷",
    "\x00\x01\x7f\ufeff\ufffd\u200b",
    "<|im_start|>user<|im_end|><think></s><s><|endoftext|>",
    "x = [1234567, 0.5e-3]  # ▁ <0x0A>",
    "▁",
    " ",
]


def write_directory(path: Path, backend_json: dict | None, **files) -> Path:
    """A model directory. In: tokenizer_config={"bos_token": "<s>"}  Out: tokenizer_config.json with that."""
    if backend_json is not None:
        files["tokenizer"] = backend_json
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return path


def tokenizer_json(tiny, name: str = "llama") -> dict:
    return json.loads(tiny[name]._backend.to_str())


@pytest.fixture
def from_files(tmp_path, tiny):
    """The llama-like tiny tokenizer with the given files around it."""
    return lambda **files: Tokenizer.from_directory(write_directory(tmp_path, tokenizer_json(tiny), **files))


# --- reading a directory


def test_a_response_template_is_kept_as_it_is(tmp_path, tiny):
    template = {"version": 9, "fields": [None]}
    directory = write_directory(
        tmp_path, tokenizer_json(tiny), tokenizer_config={"response_template": template}
    )
    assert Tokenizer.from_directory(directory).response_template == template
    assert tiny["llama"].response_template is None


def test_added_tokens_are_named_by_their_texts(tiny):
    tokens = tiny["byte_level"].added_tokens
    assert set(tokens) == {"<|end|>", "<|user|>", "<think>", "日本 語"}
    assert tiny["byte_level"].encode("<think>", add_special_tokens=False) == [tokens["<think>"]]


def test_a_missing_tokenizer_json_is_named_with_a_remedy(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer.json in .*pass token ids.*transformers"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "Nothing"}}', "\x00"])
def test_a_corrupt_tokenizer_json_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer.json is corrupt"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    "name", ["tokenizer_config", "generation_config", "chat_template", "special_tokens_map"]
)
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_a_corrupt_file_beside_it_is_named(tmp_path, tiny, name, content):
    write_directory(tmp_path, tokenizer_json(tiny))
    (tmp_path / f"{name}.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=f"{name}.json"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": {"one": {"content": "<s>"}}}, "key 'one'"),
        ({"added_tokens_decoder": {"1": "<s>"}}, "maps 1 to '<s>'"),
        ({"chat_template": [{"name": "default"}]}, "'name' and a 'template'"),
        ({"chat_template": [{"name": "default", "template": 3}]}, "chat_template is .*must be a string"),
        ({"chat_template": 3}, "chat_template is 3.*must be a string"),
    ],
)
def test_a_malformed_tokenizer_config_is_refused(from_files, config, message):
    with pytest.raises(TokenizerError, match=message):
        from_files(tokenizer_config=config)


def test_a_chat_template_that_is_not_utf8_is_named(tmp_path, from_files):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokenizerError, match=r"chat_template.jinja is not valid UTF-8"):
        from_files()


def test_tokenizer_json_alone_is_enough(from_files):
    tokenizer = from_files()
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.chat_template) == (None, None, None)
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"


@pytest.mark.parametrize("bos", ["<s>", {"content": "<s>", "lstrip": False, "__type": "AddedToken"}])
def test_special_tokens_are_strings_or_dictionaries(from_files, bos):
    tokenizer = from_files(tokenizer_config={"bos_token": bos, "eos_token": "</s>", "unk_token": None})
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_special_tokens_map_is_the_older_place(from_files):
    assert from_files(special_tokens_map={"bos_token": {"content": "<s>"}}).bos_token_id == 1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"bos_token_id": 5}, "config": {"bos_token_id": 6}}, 5),
        ({"generation_config": {"bos_token_id": None}, "config": {"bos_token_id": 6}}, 6),
        ({"tokenizer_config": {"bos_token": "<s>"}, "generation_config": {"bos_token_id": 5}}, 1),
        ({"tokenizer_config": {"bos_token": None}, "generation_config": {"bos_token_id": 5}}, 5),
        ({"config": {"bos_token_id": [6]}}, None),
    ],
)
def test_bos_comes_from_the_model_where_the_tokenizer_names_none(from_files, files, expected):
    assert from_files(**files).bos_token_id == expected


NAMED = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config": {"chat_template": "C"}}, "C"),
        ({"tokenizer_config": {"chat_template": NAMED}}, "D"),
        ({"tokenizer_config": {"chat_template": NAMED[:1]}}, "T"),
        ({"tokenizer_config": {"chat_template": {"tool_use": "T", "default": "D"}}}, "D"),
        ({"tokenizer_config": {"chat_template": {"tool_use": "T", "rag": "R"}}}, None),
        ({"tokenizer_config": {"chat_template": []}}, None),
        ({"tokenizer_config": {"chat_template": "C"}, "chat_template": {"chat_template": "J"}}, "J"),
    ],
)
def test_the_chat_template_is_found(from_files, files, expected):
    assert from_files(**files).chat_template == expected


def write_template(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


NAMED_FILES = {
    "one file": (["chat_template.jinja"], {}, {"default": "chat_template.jinja"}),
    "and more": (
        ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"],
        {"chat_template": NAMED},
        {"default": "chat_template.jinja", "tool_use": "additional_chat_templates/tool_use.jinja"},
    ),
    "more alone": (
        ["additional_chat_templates/tool_use.jinja", "additional_chat_templates/rag.jinja"],
        {"chat_template": NAMED},
        {
            "tool_use": "additional_chat_templates/tool_use.jinja",
            "rag": "additional_chat_templates/rag.jinja",
        },
    ),
    "a second default": (
        ["chat_template.jinja", "additional_chat_templates/default.jinja"],
        {},
        {"default": "additional_chat_templates/default.jinja"},
    ),
    "in the configuration": ([], {"chat_template": NAMED}, {"default": "D", "tool_use": "T"}),
}


@pytest.mark.parametrize("name", NAMED_FILES)
def test_named_templates_are_found(name, tmp_path, from_files):
    files, config, right = NAMED_FILES[name]
    for file in files:
        write_template(tmp_path / file, file)
    assert from_files(tokenizer_config=config).chat_templates == right


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMED_FILES)
def test_named_templates_are_found_as_in_transformers(name, tmp_path, from_files, auto_tokenizer):
    files, config, right = NAMED_FILES[name]
    for file in files:
        write_template(tmp_path / file, file)
    from_files(tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", **config})
    theirs = auto_tokenizer(tmp_path).chat_template
    assert ({"default": theirs} if isinstance(theirs, str) else theirs) == right


TOOLS = [{"type": "function", "function": {"name": "now"}}]
USES = [
    {"name": name, "template": f"{name} {{{{ messages[0].content }}}}"}
    for name in ("default", "tool_use", "rag")
]


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({}, "default"),
        ({"tools": TOOLS}, "tool_use"),
        ({"tools": []}, "tool_use"),
        ({"tools": None}, "default"),
        ({"chat_template": "rag"}, "rag"),
        ({"chat_template": "rag", "tools": TOOLS}, "rag"),
        ({"chat_template": "other {{ messages[0].content }}"}, "other"),
    ],
)
def test_a_named_template_is_chosen(options, right, from_files):
    tokenizer = from_files(tokenizer_config={"chat_template": USES})
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], **options)
    assert ids == tokenizer.encode(f"{right} a", add_special_tokens=False)


def test_a_single_template_takes_tools_too(from_files):
    tokenizer = from_files(tokenizer_config={"chat_template": "{{ tools | length }} a"})
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tools=TOOLS) == tokenizer.encode(
        "1 a", add_special_tokens=False
    )


@pytest.mark.parametrize("chosen", ["tool-use", "", 3])
def test_a_name_that_no_template_has_is_refused_with_those_there_are(chosen, from_files):
    tokenizer = from_files(tokenizer_config={"chat_template": USES})
    with pytest.raises(RequestError, match=r"neither the source .*'default', 'tool_use', 'rag'"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], chat_template=chosen)


def test_several_templates_without_a_default_are_not_chosen_from(from_files):
    tokenizer = from_files(tokenizer_config={"chat_template": USES[1:]})
    message = [{"role": "user", "content": "a"}]
    with pytest.raises(TokenizerError, match=r"'tool_use', 'rag' and none is named 'default'"):
        tokenizer.apply_chat_template(message)
    assert tokenizer.apply_chat_template(message, tools=TOOLS)


def test_a_given_template_serves_a_model_without_one(gpt2):
    ids = gpt2.apply_chat_template(
        [{"role": "user", "content": "a"}], chat_template="{{ messages[0].content }}"
    )
    assert ids == gpt2.encode("a")


def test_chat_template_jinja_wins(tmp_path, from_files):
    (tmp_path / "chat_template.jinja").write_text("é", encoding="utf-8")
    files = {"chat_template": {"chat_template": "J"}, "tokenizer_config": {"chat_template": "C"}}
    assert from_files(**files).chat_template == "é"


def test_truncation_and_padding_in_the_file_are_ignored(tmp_path, tiny):
    backend_json = tokenizer_json(tiny)
    backend_json["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    backend_json["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    tokenizer = Tokenizer.from_directory(write_directory(tmp_path, backend_json))
    assert tokenizer.decode(tokenizer.encode("a" * 10)) == "a" * 10
    assert len(tokenizer.encode("a" * 10)) < 50


# --- encoding and decoding


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


# --- chat


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


def mt_bench_conversations(path: Path, reply: str) -> dict[int, list[list[dict[str, str]]]]:
    """By question: the conversation up to the user's first turn, and up to the second."""
    conversations = {}
    for question in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        first, second = ({"role": "user", "content": turn} for turn in question["turns"])
        conversations[question["question_id"]] = [
            [first],
            [first, {"role": "assistant", "content": reply}, second],
        ]
    return conversations


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


# --- against transformers


@pytest.fixture(scope="session")
def auto_tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained


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
