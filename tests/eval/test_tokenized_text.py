"""A text as tokens, each with its bytes."""

import pytest

from jinfer.errors import ConfigError, TokenizerError
from jinfer.eval.tokenized_text import TokenizedText, need_tokenizer, read_text
from jinfer.eval.windows import Window
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import BOS, BOS_ID, tiny_tokenizer
from tests.tiny_model import letters_tokenizer

TEXT = "the cat sat on the mat ☃ and more\r\n\n é"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer(), special_tokens={"bos_token": BOS})


def test_the_bytes_of_all_tokens_are_those_of_the_text(tokenizer):
    text = TokenizedText.of(TEXT, tokenizer)
    assert sum(text.num_bytes) == len(TEXT.encode())
    assert len(text.num_bytes) == len(text.token_ids)
    assert tokenizer.decode(text.token_ids) == TEXT


def test_the_bytes_of_a_character_belong_to_the_first_of_its_tokens(tokenizer):
    assert TokenizedText.of("a☃b", tokenizer).num_bytes == (1, 3, 0, 0, 1)


def test_the_bytes_of_each_token_are_those_that_it_stands_for(tokenizer):
    text = TokenizedText.of("the cat sat on the mat", tokenizer)
    spoken = [len(tokenizer.token_bytes(token_id)) for token_id in text.token_ids]
    assert list(text.num_bytes) == spoken
    assert max(spoken) > 1


def test_scored_bytes_are_those_of_the_scored_tokens(tokenizer):
    text = TokenizedText.of(TEXT, tokenizer)
    windows = [Window(0, 1, 3), Window(1, 3, 5)]
    assert text.num_scored_bytes(windows) == sum(text.num_bytes[1:5])


def test_what_the_tokenizer_puts_before_a_text_is_apart(tokenizer):
    text = TokenizedText.of("the cat", tokenizer)
    assert text.prefix == (BOS_ID,)
    assert BOS_ID not in text.token_ids
    assert TokenizedText.of("the cat", letters_tokenizer()).prefix == ()


def test_the_first_tokens_alone(tokenizer):
    whole, part = (TokenizedText.of(TEXT, tokenizer, max_tokens) for max_tokens in (None, 4))
    assert part.token_ids == whole.token_ids[:4]
    assert part.num_bytes == whole.num_bytes[:4]


@pytest.mark.parametrize(("text", "max_tokens"), [("", None), ("a", None), ("the cat", 1)])
def test_a_text_that_is_too_short(tokenizer, text, max_tokens):
    with pytest.raises(ConfigError, match=r"has [01] tokens, and at least 2 are needed.*longer --text"):
        TokenizedText.of(text, tokenizer, max_tokens)


def test_line_ends_stay(tmp_path):
    (tmp_path / "text").write_bytes(TEXT.encode())
    assert read_text(tmp_path / "text") == TEXT


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes("abcé".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin is not UTF-8 at byte 3 .*convert it"):
        read_text(tmp_path / "latin")
    with pytest.raises(ConfigError, match=r"nowhere cannot be read: No such file.*name a file"):
        read_text(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_a_model_without_a_tokenizer():
    with pytest.raises(TokenizerError, match=r"model A has no tokenizer.*tokenizer\.json"):
        need_tokenizer(None, "model A")
