"""Tokenizer's reading of a model directory: which files, which entries, and what is malformed."""

from pathlib import Path

import pytest

from jinfer.errors import RequestError, TokenizerError
from jinfer.text.tokenizer import Tokenizer
from tests.text.model_directories import tokenizer_json, write_directory


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
