"""Ids of tokens that tokenizer.json lacks, and keys of tokenizer_config.json that change ids: against
transformers."""

import random

import pytest

from jinfer.errors import TokenizerError
from jinfer.text.tokenizer import Tokenizer
from tests.text.model_directories import tokenizer_json, write_directory

TEXTS = ["a[A] b [B]he</s> a", "<s>ab <think>[C][D]x<pad>", " he<unk> [A]"]
NAMES = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "image_token",
]
CONTENTS = ["<s>", "</s>", "<unk>", "[A]", "[B]", "[C]", "<pad>", "[D]", "he", "<think>"]
KEYS = {
    "split_special_tokens": True,
    "add_prefix_space": False,
    "add_bos_token": True,
    "add_eos_token": True,
    "clean_up_tokenization_spaces": True,
    "legacy": True,
    "model_max_length": 3,
    "max_length": 2,
    "truncation_side": "left",
    "padding_side": "left",
    "do_lower_case": True,
    "from_slow": True,
    "spaces_between_special_tokens": False,
}


class Directory:
    """Files of a model directory, drawn by chance from all the places that may name a token."""

    def __init__(self, seed: int, backend_json: dict) -> None:
        self.random = random.Random(seed)
        added = backend_json["added_tokens"][: self.random.choice([0, 2, 4, 4])]
        for token in added:
            token["special"] ^= self.random.random() < 0.2
        self.backend_json = {**backend_json, "added_tokens": added}
        self.first_id = len(backend_json["model"]["vocab"])
        self.files = {"tokenizer_config": self.config()}
        if self.random.random() < 0.4:
            self.files["added_tokens"] = dict(self.ids())
        if self.random.random() < 0.4:
            self.files["special_tokens_map"] = self.special_tokens_map()

    def config(self) -> dict:
        chosen = self.random.sample(NAMES, 3)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **{name: self.token() for name in chosen}}
        if self.random.random() < 0.3:
            config["extra_special_tokens"] = self.random.choice(
                [self.tokens(), {"audio_token": self.token()}]
            )
        if self.random.random() < 0.3:
            config["additional_special_tokens"] = self.tokens()
        if self.random.random() < 0.4:
            some = {
                "lstrip": self.chance(),
                "rstrip": False,
                "single_word": False,
                "normalized": self.chance(),
            }
            declared = {
                str(token_id): {"content": text, "special": self.chance(), **some}
                for text, token_id in self.ids()
            }
            config["added_tokens_decoder"] = declared
        return config | {name: value for name, value in KEYS.items() if self.random.random() < 0.2}

    def special_tokens_map(self) -> dict:
        entries = {name: self.token() for name in self.random.sample(NAMES, 3)}
        for entry in entries.values():
            if isinstance(entry, dict):
                del entry["__type"]
        if self.chance():
            entries[self.random.choice(["additional_special_tokens", "extra_special_tokens"])] = [
                "[C]",
                "<pad>",
            ]
        return entries

    def ids(self) -> list[tuple[str, int]]:
        texts = self.random.sample(CONTENTS, self.random.randrange(5))
        ids = self.random.sample(range(self.first_id, self.first_id + 8), len(texts))
        return list(zip(texts, ids, strict=True))

    def token(self) -> str | dict:
        text = self.random.choice(CONTENTS)
        flags = {name: self.chance() for name in ("lstrip", "rstrip", "single_word", "normalized")}
        return self.random.choice([text, {"content": text, **flags, "__type": "AddedToken"}])

    def tokens(self) -> list[str | dict]:
        return [self.token() for _ in range(self.random.randrange(4))]

    def chance(self) -> bool:
        return self.random.random() < 0.3


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["llama", "byte_level"])
@pytest.mark.parametrize("seed", range(40))
def test_a_directory_with_tokens_anywhere_is_read_as_in_transformers(
    seed,
    name,
    tiny,
    tmp_path,
    auto_tokenizer,
):
    directory = Directory(seed, tokenizer_json(tiny, name))
    write_directory(tmp_path, directory.backend_json, **directory.files)
    ours, theirs = Tokenizer.from_directory(tmp_path), auto_tokenizer(tmp_path)
    assert (ours.vocab_size, ours.bos_token_id, ours.eos_token_id) == (
        len(theirs),
        theirs.bos_token_id,
        theirs.eos_token_id,
    )
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def new_ids(tokenizer: Tokenizer, *texts: str) -> list[int]:
    """The ids of tokens that the tiny llama tokenizer lacks; it has 0 to 270."""
    return [
        ids[0]
        for ids in (tokenizer.encode(text, add_special_tokens=False) for text in texts)
        if len(ids) == 1
    ]


def from_files(tmp_path, tiny, **files) -> Tokenizer:
    return Tokenizer.from_directory(write_directory(tmp_path, tokenizer_json(tiny), **files))


def test_tokens_of_added_tokens_json_come_by_their_ids(tmp_path, tiny):
    added = {"<|im_end|>": 272, "<|im_start|>": 271}
    tokenizer = from_files(tmp_path, tiny, added_tokens=added, tokenizer_config={"eos_token": "<|im_end|>"})
    assert new_ids(tokenizer, "<|im_start|>", "<|im_end|>") == [271, 272]
    assert tokenizer.eos_token_id == 272


def test_tokens_that_are_only_named_come_in_transformers_order(tmp_path, tiny):
    config = {
        "image_token": "[I]",
        "additional_special_tokens": ["[X]"],
        "pad_token": "[P]",
        "bos_token": "[B]",
    }
    tokenizer = from_files(tmp_path, tiny, tokenizer_config=config)
    assert new_ids(tokenizer, "[B]", "[P]", "[I]", "[X]") == [271, 272, 273, 274]


def test_added_tokens_json_is_not_read_beside_added_tokens_decoder(tmp_path, tiny):
    config = {"added_tokens_decoder": {"271": {"content": "[D]", "special": True}}}
    tokenizer = from_files(tmp_path, tiny, tokenizer_config=config, added_tokens={"[F]": 271})
    assert new_ids(tokenizer, "[D]") == [271]
    assert tokenizer.vocab_size == 272


def test_the_flags_of_a_named_token_count(tmp_path, tiny):
    eos = {"content": "[E]", "lstrip": True, "rstrip": True, "__type": "AddedToken"}
    tokenizer = from_files(tmp_path, tiny, tokenizer_config={"eos_token": eos})
    assert tokenizer.encode("a [E] a") == [
        1,
        *tokenizer.encode("a", add_special_tokens=False),
        271,
        *tokenizer.encode("a", add_special_tokens=False),
    ]


@pytest.mark.parametrize("token_id", ["271", None, True, [1]])
def test_an_added_token_without_an_id_is_refused(tmp_path, tiny, token_id):
    with pytest.raises(TokenizerError, match=r"added_tokens.json maps '\[A\]' to .* must be a token id"):
        from_files(tmp_path, tiny, added_tokens={"[A]": token_id})


def test_special_tokens_are_split_where_the_configuration_says_so(tmp_path, tiny):
    split = from_files(tmp_path, tiny, tokenizer_config={"split_special_tokens": True})
    ids = split.encode("a</s>")
    assert 2 not in ids
    assert split.decode(ids) == "a</s>"


# --- what a class adds


def ids_by_class(tmp_path, tiny, tokenizer_class: str, text: str) -> list[int]:
    return from_files(tmp_path, tiny, tokenizer_config={"tokenizer_class": tokenizer_class}).encode(text)


@pytest.mark.parametrize("text", [" a", "  a", "a </s> a", "</s>a", "a</s>  a"])
@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "LlamaTokenizerFast"])
def test_llama_tokenizers_have_the_ids_of_tokenizer_json(tokenizer_class, text, tmp_path, tiny):
    """Which are those of transformers 4 and of sentencepiece; transformers 5 fuses leading spaces
    (#47700)."""
    as_it_is = ids_by_class(tmp_path, tiny, "PreTrainedTokenizerFast", text)
    assert ids_by_class(tmp_path, tiny, tokenizer_class, text) == as_it_is


def test_a_leading_space_is_a_piece_of_its_own(tmp_path, tiny):
    """In sentencepiece a space is put before the text, whatever it begins with."""
    space, space_a = (tiny["llama"]._backend.token_to_id(piece) for piece in ("▁", "a"))
    assert ids_by_class(tmp_path, tiny, "LlamaTokenizer", " a") == [1, space, space, space_a]


@pytest.mark.parametrize(
    ("name", "tokenizer_class", "config", "names"),
    [
        ("llama", "LlamaTokenizer", {}, ("<s>", "</s>")),
        ("llama", "LlamaTokenizerFast", {"eos_token": "<think>"}, ("<s>", "<think>")),
        ("llama", "LlamaTokenizerFast", {"bos_token": None}, (None, "</s>")),
        ("llama", "PreTrainedTokenizerFast", {}, (None, None)),
        ("byte_level", "Qwen2Tokenizer", {"eos_token": "<|end|>"}, (None, "<|end|>")),
        ("byte_level", "LlamaTokenizer", {}, (None, None)),  # no such tokens, and none are made
    ],
)
def test_a_class_names_tokens(name, tokenizer_class, config, names, tmp_path, tiny):
    config = {"tokenizer_class": tokenizer_class, **config}
    tokenizer = Tokenizer.from_directory(
        write_directory(tmp_path, tokenizer_json(tiny, name), tokenizer_config=config)
    )
    ids = tuple(None if text is None else tiny[name]._backend.token_to_id(text) for text in names)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == ids


@pytest.mark.oracle
@pytest.mark.parametrize("config", [{}, {"eos_token": "<think>"}, {"pad_token": "<pad>"}])
def test_a_class_names_tokens_as_in_transformers(config, tmp_path, tiny, auto_tokenizer):
    config = {"tokenizer_class": "LlamaTokenizer", **config}
    ours = from_files(tmp_path, tiny, tokenizer_config=config)
    theirs = auto_tokenizer(tmp_path)
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.parametrize(
    ("name", "tokenizer_class", "value", "is_refused"),
    [
        ("llama", "LlamaTokenizer", False, True),
        ("llama", "LlamaTokenizerFast", True, False),
        ("llama", "LlamaTokenizer", None, False),
        ("llama", "PreTrainedTokenizerFast", False, False),  # a class that does not read it
        ("byte_level", "Qwen2Tokenizer", False, False),
        ("byte_level", "GPT2TokenizerFast", True, True),
    ],
)
def test_a_prefix_space_that_tokenizer_json_contradicts_is_refused(
    name, tokenizer_class, value, is_refused, tmp_path, tiny
):
    config = {"tokenizer_class": tokenizer_class, "add_prefix_space": value}
    write_directory(tmp_path, tokenizer_json(tiny, name), tokenizer_config=config)
    if is_refused:
        with pytest.raises(TokenizerError, match=f"add_prefix_space={value}.*save_pretrained"):
            Tokenizer.from_directory(tmp_path)
    else:
        assert Tokenizer.from_directory(tmp_path).encode("a")
