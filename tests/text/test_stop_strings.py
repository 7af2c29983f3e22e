"""Stop strings that Detokenizer looks for, also across tokens and with special tokens in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jinfer.errors import RequestError
from jinfer.text.detokenizer import Detokenizer
from tests.text.detokenizing import exact, ids_of, pieces_of, run


def test_a_stop_string_is_not_looked_for_in_the_prompt(tiny):
    context = ids_of(tiny["llama"], "▁a", "<0x0A>", "<0xE2>", "<0x82>")
    ids = ids_of(tiny["llama"], "<0xAC>", "▁he", "<0x0A>", "a")
    for stop, right in {"\n": "€ he", "€": "", "\n€": "€ he\na", "\ufffd": "€ he\na"}.items():
        assert run(Detokenizer(tiny["llama"], stop=(stop,), context=context), ids) == right


def test_an_empty_stop_string_is_refused(tiny):
    with pytest.raises(RequestError, match="empty"):
        Detokenizer(tiny["byte_level"], stop=("a", ""))


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("byte_level", "a\ud800"),
        ("llama", "\udfff"),
        ("word_piece", "Z"),  # of a vocabulary without capitals
        ("metaspace", "a€"),
        ("no_decoder", "\n"),
    ],
)
def test_a_stop_string_that_no_text_can_have_is_refused(tiny, name, stop):
    with pytest.raises(RequestError, match=r"would never stop anything; .*stop_token_ids"):
        Detokenizer(tiny[name], stop=("a", stop))


@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("byte_level", "Ġ€日\0"),
        ("llama", "Z€日\n▁"),
        ("word_piece", "he llo's ,"),
        ("metaspace", " b"),
        ("ctc", "Z"),
    ],
)
def test_any_other_stop_string_is_taken(tiny, name, stop):
    assert Detokenizer(tiny[name], stop=(stop,)).stop_reason is None


def test_a_stop_string_across_tokens_is_held_back_and_cut(tiny):
    ids = ids_of(tiny["byte_level"], "he", "l", "l", "o", "!")
    assert pieces_of(tiny["byte_level"], ids[:4], stop=("ello",)) == ["h", "", "", "", ""]
    detokenizer = Detokenizer(tiny["byte_level"], stop=("ello",), include_stop_str_in_output=True)
    assert run(detokenizer, ids) == "hello"
    assert detokenizer.stop_reason == "ello"


def test_held_back_text_is_given_when_it_turns_out_not_to_stop(tiny):
    ids = ids_of(tiny["byte_level"], "he", "l", "l", "y")
    assert pieces_of(tiny["byte_level"], ids, stop=("ello", "lly!")) == ["h", "", "", "e", "lly"]


def test_a_stop_string_in_an_open_byte_run_stops_at_once(tiny):
    """Llama 2 has no token for a line feed but <0x0A>, whose run may go on."""
    detokenizer = Detokenizer(tiny["llama"], stop=("\n\n",))
    ids = ids_of(tiny["llama"], "▁a", "<0x0A>", "<0x0A>")
    assert [detokenizer.add(token_id) for token_id in ids] == ["a", "", ""]
    assert detokenizer.stop_reason == "\n\n"


def test_the_shorter_of_two_stop_strings_at_one_place_counts(tiny):
    detokenizer = Detokenizer(tiny["llama"], stop=("ab", "a"))
    assert run(detokenizer, ids_of(tiny["llama"], "▁he", "ab")) == "he"
    assert detokenizer.stop_reason == "a"


def test_min_tokens_lets_earlier_stop_strings_pass(tiny):
    ids = ids_of(tiny["byte_level"], "!", "!", "he", "!", "he")
    detokenizer = Detokenizer(tiny["byte_level"], stop=("!",), min_tokens=2)
    assert run(detokenizer, ids) == "!!he"


def test_a_stop_string_that_passed_is_shown_at_once(tiny):
    ids = ids_of(tiny["byte_level"], "!", "he")
    assert pieces_of(tiny["byte_level"], ids, stop=("!", "ab"), min_tokens=2) == ["!", "he", ""]


def test_a_character_that_min_tokens_cuts_in_two_still_stops(tiny):
    ids = ids_of(tiny["llama"], "<0xE2>", "<0x82>", "<0xAC>", "a")
    detokenizer = Detokenizer(tiny["llama"], stop=("€",), min_tokens=2)
    assert run(detokenizer, ids) == ""
    assert detokenizer.stop_reason == "€"


def test_tokens_in_which_a_stop_string_may_be_are_added_one_by_one(tiny):
    with pytest.raises(AssertionError):
        Detokenizer(tiny["byte_level"], stop=("a",)).finish([0])


@pytest.mark.parametrize(
    ("name", "pieces", "stop", "right"),
    [
        ("byte_level", ["he", "<|end|>", "Ġa"], "<|end|>", ["he", ""]),
        ("byte_level", ["he", "<|end|>", "!"], "<|end|>!", ["he", "", ""]),
        ("byte_level", ["he", "<|end|>", "Ġa", "!"], "<|end|>!", ["he", "", " a", "!", ""]),
        ("byte_level", ["he", "l", "<|end|>"], "l<|end|>", ["he", "", ""]),
        ("byte_level", ["he", "l", "<|end|>", "<|user|>", "o"], "l<|end|><|user|>o", ["he", "", "", "", ""]),
        ("byte_level", ["he", "l", "<|user|>", "<|end|>"], "l<|end|>", ["he", "", "", "", "l"]),
        (
            "byte_level",
            ["he", "l", "<|end|>", "o"],
            "lo",
            ["he", "", "", ""],
        ),  # as the text without special tokens has
        ("byte_level", ["<", "|", "e", "n", "d", "|", ">"], "<|end|>", [""] * 7),  # written with other tokens
        ("byte_level", ["he", "âĤ", "<|end|>"], "<|end|>", ["he", "", "\ufffd"]),
        ("byte_level", ["he", "âĤ", "<|end|>", "¬!", "!"], "<|end|>€!!", ["he", "", "", "", ""]),
        ("llama", ["▁he", "<0xE2>", "<0x82>", "<s>", "<0xAC>", "</s>"], "</s>", ["he", "", "", "", "€", ""]),
        ("llama", ["</s>", "▁he"], "</s>", [""]),
        ("llama", ["▁he", "</s>", "<0x0A>"], "</s>\n", ["he", "", ""]),
        ("word_piece", ["he", "##llo", "[CLS]"], "[CLS]", ["he", "llo", ""]),
        ("bpe_decoder", ["a</w>", "a</w>", "[CLS]"], "[CLS]", ["", "", "a a"]),
        ("bpe_decoder", ["a</w>", "[CLS]", "a</w>"], "[CLS] a", ["", "", "a"]),
    ],
)
def test_a_stop_string_with_a_special_token_stops(tiny, name, pieces, stop, right):
    detokenizer = Detokenizer(tiny[name], stop=(stop,))
    given = []
    for token_id in ids_of(tiny[name], *pieces):
        given.append(detokenizer.add(token_id))
        if detokenizer.stop_reason:
            break
    else:
        given.append(detokenizer.finish())
    assert given == right
    assert detokenizer.stop_reason in (None, stop)


def test_an_included_stop_string_is_shown_without_its_special_tokens(tiny):
    options = {"stop": ("o<|end|>!",), "include_stop_str_in_output": True}
    ids = ids_of(tiny["byte_level"], "he", "o", "<|end|>", "!", "l")
    assert run(Detokenizer(tiny["byte_level"], **options), ids) == "heo!"
    assert run(Detokenizer(tiny["byte_level"], **options, skip_special_tokens=False), ids) == "heo<|end|>!"


def test_min_tokens_lets_earlier_special_tokens_pass(tiny):
    tokenizer = tiny["byte_level"]
    detokenizer = Detokenizer(tokenizer, stop=("<|end|>",), min_tokens=2)
    assert run(detokenizer, ids_of(tokenizer, "he", "<|end|>", "o", "<|end|>", "!")) == "heo"
    assert (detokenizer.num_tokens, detokenizer.stop_reason) == (4, "<|end|>")


@exact
@given(data=st.data(), include=st.booleans(), min_tokens=st.integers(0, 4))
def test_special_tokens_stop_whether_they_are_shown_or_not(tiny, data, include, min_tokens):
    """Where a stop string holds a special token, what is shown differs by the special tokens alone."""
    tokenizer = tiny["byte_level"]
    pieces = ["he", "Ġa", "l", "<", "|", "<|end|>", "<|user|>", "<think>"]
    ids = ids_of(tokenizer, *data.draw(st.lists(st.sampled_from(pieces), max_size=14)))
    around = st.sampled_from(["", "he", "l", "he a", "<", "|", "<|user|>", "<think>"])
    special = st.sampled_from(tokenizer.special_texts)
    stop = tuple(data.draw(st.lists(st.tuples(around, special, around).map("".join), min_size=1, max_size=3)))
    options = {"stop": stop, "include_stop_str_in_output": include, "min_tokens": min_tokens}
    shown = Detokenizer(tokenizer, **options, skip_special_tokens=False)
    hidden = Detokenizer(tokenizer, **options)
    without = run(hidden, ids)
    with_special = run(shown, ids)
    assert (hidden.stop_reason, hidden.num_tokens) == (shown.stop_reason, shown.num_tokens)
    if shown.stop_reason is None or not include:
        for special in tokenizer.special_texts:
            with_special = with_special.replace(special, "")
        assert without == with_special
