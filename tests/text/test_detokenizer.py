"""Detokenizer against its definition, evaluated the slow way: decode everything after every token."""

import functools
import statistics
import sys
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jinfer.errors import RequestError
from jinfer.text.decoder_kind import DecoderKind
from jinfer.text.detokenizer import Detokenizer
from jinfer.text.tokenizer import Tokenizer

# The tokenizer fixture is the same object for every example. Fourteen tokenizers see as many examples each.
exact = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def decode(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    known = [token_id for token_id in ids if tokenizer.has_text(token_id, skip_special_tokens=False)]
    return tokenizer.decode(known, skip_special_tokens)


def completion(
    tokenizer: Tokenizer, context: Sequence[int], ids: Sequence[int], skip_special_tokens: bool
) -> str:
    """What the ids add to the text of the context, from where the two texts part."""
    before = decode(tokenizer, context, skip_special_tokens)
    text = decode(tokenizer, [*context, *ids], skip_special_tokens)
    num_shared = max(n for n in range(len(before) + 1) if text.startswith(before[:n]))
    return text[num_shared:]


def stopped_text(tokenizer, ids, *, context, stop, include, skip, min_tokens) -> tuple[str, str | None]:
    """The definition in Detokenizer's docstring."""
    unsearched = len(completion(tokenizer, context, ids[:min_tokens], skip).rstrip("\ufffd"))
    for num_tokens in range(min_tokens + 1, len(ids) + 1):
        text = completion(tokenizer, context, ids[:num_tokens], skip)
        found = [
            (start, len(word), word)
            for word in stop
            for start in range(len(text))
            if text.startswith(word, start) and start + len(word) > unsearched
        ]
        if found:
            start, length, word = min(found)
            return text[: start + length if include else start], word
    return completion(tokenizer, context, ids, skip), None


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


@functools.cache
def ids_of_one_byte(tokenizer: Tokenizer) -> list[int]:
    return [i for i in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(i) or b"") == 1] or [0]


def draw_ids(data: st.DataObject, tokenizer: Tokenizer, max_size: int = 24) -> list[int]:
    """Ids of all kinds, repeated more often than chance would: bytes and spaces in runs, ids without a
    token."""
    any_id = st.integers(0, tokenizer.vocab_size + 1)
    euro = st.sampled_from(["€", "🦄", "  a", "\n\n", "</s>", "�", "é"]).map(
        lambda text: tokenizer.encode(text, add_special_tokens=False)
    )
    some_bytes = st.lists(st.sampled_from(ids_of_one_byte(tokenizer)), max_size=6)
    run_of_one = st.tuples(any_id, st.integers(1, 4)).map(lambda pair: [pair[0]] * pair[1])
    some = data.draw(
        st.lists(st.one_of(any_id.map(lambda i: [i]), euro, some_bytes, run_of_one), max_size=max_size)
    )
    ids = [token_id for part in some for token_id in part]
    drop = data.draw(st.integers(0, 3)) if ids else 0  # begin in the middle of something
    return ids[drop:]


def draw_context(data: st.DataObject, tokenizer: Tokenizer) -> list[int]:
    """A prompt: none, one whose last tokens are all of one kind, or any."""
    end = st.tuples(st.integers(0, tokenizer.vocab_size + 1), st.integers(0, 40)).map(
        lambda pair: [pair[0]] * pair[1]
    )
    return draw_ids(data, tokenizer, max_size=6) + data.draw(st.one_of(st.just([]), end))


@exact
@given(data=st.data(), skip=st.booleans())
def test_pieces_join_to_the_decoded_text(any_tokenizer, data, skip):
    ids = draw_ids(data, any_tokenizer)
    detokenizer = Detokenizer(any_tokenizer, skip_special_tokens=skip)
    assert run(detokenizer, ids) == decode(any_tokenizer, ids, skip)


@exact
@given(data=st.data(), skip=st.booleans())
def test_the_text_is_what_the_tokens_add_to_the_context(any_tokenizer, data, skip):
    context, ids = draw_context(data, any_tokenizer), draw_ids(data, any_tokenizer, max_size=8)
    right = completion(any_tokenizer, context, ids, skip)
    assert run(Detokenizer(any_tokenizer, skip_special_tokens=skip, context=context), ids) == right
    at_once = Detokenizer(any_tokenizer, skip_special_tokens=skip, context=context)
    assert at_once.finish(ids) == right


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
    context, ids = draw_context(data, any_tokenizer), draw_ids(data, any_tokenizer, max_size=12)
    text = completion(any_tokenizer, context, ids, skip)
    slices = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 5)).map(
        lambda s: text[s[0] : sum(s)]
    )
    stop = tuple(
        data.draw(st.lists(st.one_of(slices, st.text("ab €\n�", min_size=1, max_size=3)), max_size=3))
    )
    assume(all(word and any_tokenizer.unwritable_character(word) is None for word in stop))
    assume(not any(special in word for special in any_tokenizer.special_texts for word in stop))
    # Then the definition is loose.
    assume(min_tokens == 0 or not any(word.endswith("\ufffd") for word in stop))
    options = {"context": context, "stop": stop, "min_tokens": min_tokens}
    expected = stopped_text(any_tokenizer, ids, include=include, skip=skip, **options)
    detokenizer = Detokenizer(
        any_tokenizer, include_stop_str_in_output=include, skip_special_tokens=skip, **options
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


def test_a_stop_string_is_not_looked_for_in_the_prompt(tiny):
    context = ids_of(tiny["llama"], "▁a", "<0x0A>", "<0xE2>", "<0x82>")
    ids = ids_of(tiny["llama"], "<0xAC>", "▁he", "<0x0A>", "a")
    for stop, right in {"\n": "€ he", "€": "", "\n€": "€ he\na", "\ufffd": "€ he\na"}.items():
        assert run(Detokenizer(tiny["llama"], stop=(stop,), context=context), ids) == right


def test_a_long_context_costs_no_more_than_its_end(tiny):
    for name, pieces in {
        "llama": ["<0x0A>"],
        "gemma": ["▁"],
        "byte_level": ["âĤ"],
        "word_piece": ["he"],
    }.items():
        tokenizer = CountingTokenizer(tiny[name])
        run(Detokenizer(tokenizer, context=ids_of(tokenizer, *pieces) * 5000), ids_of(tokenizer, *pieces) * 3)
        assert max(tokenizer.sizes, default=0) <= 8


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


# --- stop strings that contain special tokens


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


def test_special_tokens_without_end_cost_the_same_each(tiny):
    tokenizer = tiny["byte_level"]
    detokenizer = Detokenizer(tokenizer, stop=("<|end|>!", "hello"))
    he, end, shriek = ids_of(tokenizer, "he", "<|end|>", "!")
    detokenizer.add(he)  # is held back
    num_lines = [count_lines(lambda: detokenizer.add(end)) for _ in range(300)]
    assert statistics.median(num_lines[200:]) <= statistics.median(num_lines[:100])
    assert detokenizer.add(shriek) == "he"
    assert detokenizer.stop_reason == "<|end|>!"


def count_lines(call) -> int:
    """How many lines of Python a call runs: what it costs, whatever else the machine does."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return count


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
        ("llama", ["<0xE2>", "<0x82>", "<0xAC>"]),
        ("llama", ["<0x0A>"]),
        ("llama", ["<0xE2>"]),
        ("llama", ["<0xFF>"]),
        ("gemma", ["<0xF0>", "<0x9F>", "<0xA6>"]),
        ("no_decoder", [""]),
    ],
)
def test_a_token_costs_a_few_ids_however_long_the_text_is(tiny, name, pieces):
    tokenizer = CountingTokenizer(tiny[name])
    start = ids_of(tokenizer, "▁he" if name in ("llama", "gemma") else "he")
    ids = start + ids_of(tokenizer, *pieces) * 300
    assert run(Detokenizer(tokenizer, stop=("hexx",)), ids) == decode(tiny[name], ids)
    assert max(tokenizer.sizes, default=0) <= 8
    assert len(tokenizer.sizes) <= 3 * len(ids)


@pytest.mark.parametrize(
    ("name", "piece"), [("llama", ""), ("llama", "<0x41>"), ("word_piece", ""), ("gemma", "")]
)
def test_a_token_costs_a_few_ids_from_the_first_on(tiny, name, piece):
    tokenizer = CountingTokenizer(tiny[name])
    ids = ids_of(tokenizer, piece) * 300
    assert run(Detokenizer(tokenizer, stop=("hexx",)), ids) == decode(tiny[name], ids)
    assert max(tokenizer.sizes, default=0) <= 8
