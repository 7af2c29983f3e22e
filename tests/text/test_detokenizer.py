"""Detokenizer against its definition, evaluated the slow way: decode everything after every token."""

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jinfer.errors import RequestError
from jinfer.text.detokenizer import Detokenizer
from jinfer.text.text_growth import DecoderKind
from jinfer.text.tokenizer import Tokenizer

# The tokenizer fixture is the same object for every example.
exact = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def decode(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    known = [token_id for token_id in ids if tokenizer.has_text(token_id, skip_special_tokens=False)]
    return tokenizer.decode(known, skip_special_tokens)


def stopped_text(tokenizer, ids, *, stop, include, skip, min_tokens) -> tuple[str, str | None]:
    """The definition in Detokenizer's docstring."""
    unsearched = len(decode(tokenizer, ids[:min_tokens], skip).rstrip("\ufffd"))
    for num_tokens in range(min_tokens + 1, len(ids) + 1):
        text = decode(tokenizer, ids[:num_tokens], skip)
        found = [
            (start, len(word), word)
            for word in stop
            for start in range(len(text))
            if text.startswith(word, start) and start + len(word) > unsearched
        ]
        if found:
            start, length, word = min(found)
            return text[: start + length if include else start], word
    return decode(tokenizer, ids, skip), None


def run(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    """All text that is given out, until a stop string or the end."""
    pieces = []
    for token_id in ids:
        pieces.append(detokenizer.add(token_id))
        assert detokenizer.text == "".join(pieces)
        if detokenizer.stop_reason is not None:
            assert detokenizer.finish() == ""
            return "".join(pieces)
    pieces.append(detokenizer.finish())
    assert detokenizer.text == "".join(pieces)
    return "".join(pieces)


def draw_ids(data: st.DataObject, tokenizer: Tokenizer, max_size: int = 24) -> list[int]:
    """Ids of all kinds, repeated more often than chance would: bytes and spaces in runs, ids without a token."""
    any_id = st.integers(0, tokenizer.vocab_size + 1)
    euro = st.sampled_from(["€", "🦄", "  a", "\n\n", "</s>", "�", "é"]).map(
        lambda text: tokenizer.encode(text, add_special_tokens=False)
    )
    run_of_one = st.tuples(any_id, st.integers(1, 4)).map(lambda pair: [pair[0]] * pair[1])
    some = data.draw(st.lists(st.one_of(any_id.map(lambda i: [i]), euro, run_of_one), max_size=max_size))
    ids = [token_id for part in some for token_id in part]
    drop = data.draw(st.integers(0, 3)) if ids else 0  # begin in the middle of something
    return ids[drop:]


@exact
@given(data=st.data(), skip=st.booleans())
def test_pieces_join_to_the_decoded_text(any_tokenizer, data, skip):
    ids = draw_ids(data, any_tokenizer)
    detokenizer = Detokenizer(any_tokenizer, skip_special_tokens=skip)
    assert run(detokenizer, ids) == decode(any_tokenizer, ids, skip)


@exact
@given(data=st.data(), skip=st.booleans())
def test_the_last_tokens_may_be_added_at_once(any_tokenizer, data, skip):
    ids = draw_ids(data, any_tokenizer)
    num_single = data.draw(st.integers(0, len(ids)))
    detokenizer = Detokenizer(any_tokenizer, skip_special_tokens=skip)
    pieces = [detokenizer.add(token_id) for token_id in ids[:num_single]]
    assert detokenizer.num_tokens == num_single
    pieces.append(detokenizer.finish(ids[num_single:]))
    assert detokenizer.text == "".join(pieces) == decode(any_tokenizer, ids, skip)
    assert detokenizer.num_tokens == len(ids)


@exact
@given(data=st.data(), skip=st.booleans(), include=st.booleans(), min_tokens=st.integers(0, 6))
def test_stop_strings_cut_where_the_definition_says(any_tokenizer, data, skip, include, min_tokens):
    ids = draw_ids(data, any_tokenizer, max_size=12)
    text = decode(any_tokenizer, ids, skip)
    slices = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 5)).map(lambda s: text[s[0] : sum(s)])
    stop = tuple(data.draw(st.lists(st.one_of(slices, st.text("ab €\n�", min_size=1, max_size=3)), max_size=3)))
    assume("" not in stop)
    assume(min_tokens == 0 or not any(word.endswith("\ufffd") for word in stop))  # then the definition is loose
    expected = stopped_text(any_tokenizer, ids, stop=stop, include=include, skip=skip, min_tokens=min_tokens)
    detokenizer = Detokenizer(
        any_tokenizer, stop=stop, include_stop_str_in_output=include, skip_special_tokens=skip, min_tokens=min_tokens
    )
    assert (run(detokenizer, ids), detokenizer.stop_reason) == expected


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


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int], **options) -> list[str]:
    detokenizer = Detokenizer(tokenizer, **options)
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


def ids_of(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    ids = [tokenizer._backend.token_to_id(piece) for piece in pieces]
    assert None not in ids
    return ids


def test_text_is_shown_with_the_token_that_completes_it(tiny):
    ids = ids_of(tiny["byte_level"], "he", "âĤ", "¬", "Ġa", "<|end|>", "he")
    assert pieces_of(tiny["byte_level"], ids) == ["he", "", "€", " a", "", "he", ""]


def test_a_byte_run_is_shown_when_it_ends(tiny):
    ids = ids_of(tiny["llama"], "▁a", "<0xE2>", "<0x82>", "</s>", "<0xAC>", "▁", "b")
    assert pieces_of(tiny["llama"], ids) == ["a", "", "", "", "", "€ ", "b", ""]


def test_an_invalid_byte_spoils_its_whole_run(tiny):
    ids = ids_of(tiny["llama"], "<0x41>", "<0x80>", "a")
    assert pieces_of(tiny["llama"], ids) == ["", "", "\ufffd\ufffda", ""]


def test_a_shown_special_token_ends_a_byte_run(tiny):
    ids = ids_of(tiny["llama"], "<0x41>", "</s>", "<0x42>")
    assert pieces_of(tiny["llama"], ids, skip_special_tokens=False) == ["", "A</s>", "", "B"]


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


def test_an_empty_stop_string_is_refused(tiny):
    with pytest.raises(RequestError, match="empty"):
        Detokenizer(tiny["byte_level"], stop=("a", ""))


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


def test_nothing_may_be_added_after_the_end(tiny):
    detokenizer = Detokenizer(tiny["byte_level"])
    detokenizer.finish()
    with pytest.raises(AssertionError):
        detokenizer.add(0)
    with pytest.raises(AssertionError):
        detokenizer.finish([0])


def test_tokens_in_which_a_stop_string_may_be_are_added_one_by_one(tiny):
    with pytest.raises(AssertionError):
        Detokenizer(tiny["byte_level"], stop=("a",)).finish([0])


class CountingTokenizer(Tokenizer):
    """Records how many ids each call of decode is given."""

    def __init__(self, other: Tokenizer) -> None:
        super().__init__(other._backend)
        self.sizes: list[int] = []

    def decode(self, token_ids, skip_special_tokens=True):
        self.sizes.append(len(token_ids))
        return super().decode(token_ids, skip_special_tokens)


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("byte_level", ["he"]),
        ("byte_level", ["<|end|>"]),  # a benchmark that ignores the end token
        ("byte_level", ["ī"]),  # a byte that never begins or ends a character
        ("byte_level", ["âĤ", "¬"]),
        ("llama", ["▁"]),
        ("llama", ["▁", "</s>"]),
        ("llama", ["<0x0A>", "▁a"]),
        ("llama", ["<0xE2>", "<0x82>", "<0xAC>", "�"]),
        ("no_decoder", [""]),
    ],
)
def test_a_token_costs_a_few_ids_however_long_the_text_is(tiny, name, pieces):
    tokenizer = CountingTokenizer(tiny[name])
    start = ids_of(tokenizer, "he" if name != "llama" else "▁he")
    ids = start + ids_of(tokenizer, *pieces) * 300
    assert run(Detokenizer(tokenizer, stop=("never",)), ids) == decode(tiny[name], ids)
    assert max(tokenizer.sizes) <= 5
    assert len(tokenizer.sizes) <= 3 * len(ids)
