"""Pieces of text that Detokenizer shows, token by token."""

import pytest

from jinfer.errors import RequestError
from jinfer.text.decoder_kind import DecoderKind
from jinfer.text.detokenizer import Detokenizer
from tests.text.detokenizing import ids_of, pieces_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("byte_level", DecoderKind.BYTES),
        ("llama", DecoderKind.PIECES),
        ("gemma", DecoderKind.PIECES),
        ("metaspace", DecoderKind.PIECES),
        ("word_piece", DecoderKind.PIECES),
        ("no_decoder", DecoderKind.PIECES),
        ("fused_replace", DecoderKind.UNKNOWN),
        ("strip_the_end", DecoderKind.UNKNOWN),
        ("bpe_decoder", DecoderKind.UNKNOWN),
        ("ctc", DecoderKind.UNKNOWN),
    ],
)
def test_decoder_kinds_are_recognised(tiny, name, kind):
    assert tiny[name].decoder_kind is kind


def test_text_is_shown_with_the_token_that_completes_it(tiny):
    ids = ids_of(tiny["byte_level"], "he", "âĤ", "¬", "Ġa", "<|end|>", "he")
    assert pieces_of(tiny["byte_level"], ids) == ["he", "", "€", " a", "", "he", ""]


def test_a_character_of_byte_tokens_is_shown_with_its_last_byte(tiny):
    ids = ids_of(tiny["llama"], "▁a", "<0xE2>", "<0x82>", "</s>", "<0xAC>", "<0x0A>", "▁", "b")
    assert pieces_of(tiny["llama"], ids) == ["a", "", "", "", "€", "\n", " ", "b", ""]


def test_an_invalid_byte_leaves_the_characters_beside_it(tiny):
    ids = ids_of(tiny["llama"], "<0x41>", "<0x80>", "<0x42>", "<0xE2>", "<0x82>", "<0x43>", "<0xC3>", "a")
    assert pieces_of(tiny["llama"], ids) == ["A", "\ufffd", "B", "", "", "\ufffd\ufffdC", "", "\ufffda", ""]


def test_the_last_character_is_cut_off_alone(tiny):
    ids = ids_of(tiny["llama"], "<0xE2>", "<0x82>", "<0xAC>", "<0xE2>", "<0x82>")
    assert pieces_of(tiny["llama"], ids) == ["", "", "€", "", "", "\ufffd\ufffd"]
    assert Detokenizer(tiny["llama"]).finish(ids) == tiny["llama"].decode(ids) == "€\ufffd\ufffd"


def test_a_shown_special_token_ends_a_byte_run(tiny):
    ids = ids_of(tiny["llama"], "<0xE2>", "<0x82>", "</s>", "<0xAC>")
    assert pieces_of(tiny["llama"], ids, skip_special_tokens=False) == [
        "",
        "",
        "\ufffd\ufffd</s>",
        "\ufffd",
        "",
    ]


def test_a_token_that_ends_one_character_and_begins_another_is_shown_at_once(tiny):
    ids = ids_of(tiny["byte_level"], "âĤ", "¬âĤ", "¬âĤ", "¬!")
    assert pieces_of(tiny["byte_level"], ids) == ["", "€", "€", "€!", ""]


@pytest.mark.parametrize(
    ("name", "context", "ids", "right"),
    [
        ("llama", ["▁a", "<0x0A>"], ["▁he"], [" he", ""]),
        ("llama", ["<0x0A>"] * 40, ["<0x0A>", "▁he"], ["\n", " he", ""]),
        ("llama", ["▁a", "<0x0A>", "</s>"], ["a"], ["a", ""]),
        (
            "llama",
            ["▁a", "<0xE2>", "<0x82>"],
            ["<0xAC>", "a"],
            ["€", "a", ""],
        ),  # a character that straddles the end
        ("llama", ["▁a", "<0xE2>", "<0x82>"], ["a"], ["a", ""]),
        ("llama", ["▁a", "<0xE2>", "</s>"], ["<0x82>"], ["", "\ufffd"]),
        ("llama", ["▁a", "<0xE2>"], [], [""]),
        ("llama", ["<s>"], ["▁he", "▁a"], ["he", " a", ""]),  # as decode("<s> he a") with <s> left out
        ("llama", ["▁he", *["<s>"] * 40], ["▁he"], [" he", ""]),
        ("llama", [], ["▁he"], ["he", ""]),
        ("llama", ["▁", "▁"], ["▁he"], [" he", ""]),
        ("llama", ["▁he", *[""] * 40], ["▁he"], [" he", ""]),
        ("llama", [""] * 40, ["▁he"], ["he", ""]),
        ("metaspace", ["he", *["[CLS]"] * 40], ["▁a"], [" a", ""]),
        ("word_piece", ["he", *[""] * 40], ["he", "##llo"], [" he", "llo", ""]),
        ("byte_level", ["he", "âĤ"], ["¬!"], ["€!", ""]),
        ("byte_level", ["he", "âĤ"], ["he"], ["he", ""]),
        ("byte_level", ["he", "âĤ"], [], [""]),
        ("bpe_decoder", ["a</w>", "x"], ["a</w>"], ["", "a"]),
        ("ctc", ["he"] * 40, ["he", "x"], ["", "", "x"]),
        ("fused_replace", ["a"] * 41, ["a"], ["", "b"]),
    ],
)
def test_a_completion_begins_where_the_prompts_text_ends(tiny, name, context, ids, right):
    tokenizer = tiny[name]
    context, ids = ids_of(tokenizer, *context), ids_of(tokenizer, *ids)
    assert pieces_of(tokenizer, ids, context=context) == right
    assert Detokenizer(tokenizer, context=context).finish(ids) == "".join(right)


def test_only_the_first_leading_space_is_stripped(tiny):
    ids = ids_of(tiny["llama"], "<s>", "▁", "<s>", "▁", "▁a", "▁a")
    assert pieces_of(tiny["llama"], ids) == ["", "", "", " ", " a", " a", ""]


def test_an_incomplete_character_is_flushed_at_the_end(tiny):
    assert pieces_of(tiny["byte_level"], ids_of(tiny["byte_level"], "he", "âĤ")) == ["he", "", "\ufffd"]


def test_an_unknown_decoder_gives_its_text_at_the_end(tiny):
    ids = ids_of(tiny["bpe_decoder"], "a</w>", "a</w>")
    assert pieces_of(tiny["bpe_decoder"], ids) == ["", "", "a a"]


def test_ids_without_a_token_add_nothing(tiny):
    tokenizer = tiny["byte_level"]
    assert pieces_of(tokenizer, [*ids_of(tokenizer, "he"), tokenizer.vocab_size + 7]) == ["he", "", ""]


def test_a_negative_id_is_refused(tiny):
    with pytest.raises(RequestError, match="-1"):
        Detokenizer(tiny["byte_level"]).add(-1)


def test_nothing_may_be_added_after_the_end(tiny):
    detokenizer = Detokenizer(tiny["byte_level"])
    detokenizer.finish()
    with pytest.raises(AssertionError):
        detokenizer.add(0)
    with pytest.raises(AssertionError):
        detokenizer.finish([0])
