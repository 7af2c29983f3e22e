"""The search for patterns against Python's `re`, and what it refuses."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.text.output_parsing.marker_search import MarkerMatch, MarkerPatterns, MarkerSearch
from jinfer.text.output_parsing.pattern_search import find_all
from jinfer.text.output_parsing.pattern_syntax import literal, parse_pattern
from jinfer.text.output_parsing.symbols import MarkerToken

ATOMS = ["a", "b", "c", ".", "[ab]", "[^a]", r"\w", r"\s", " ", r"\.", "(?:ab|a)", "(?P<x>a+)", "(b|)"]
REPEATS = ["", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{1,}?"]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    size = st.integers(1, 4)
    branches = [
        "".join(draw(st.sampled_from(ATOMS)) + draw(st.sampled_from(REPEATS)) for _ in range(draw(size)))
        for _ in range(draw(st.integers(1, 2)))
    ]
    pattern = "|".join(branches)
    return pattern if pattern.count("?P<x>") < 2 else "a(?P<x>b*)c"


def first_match(compiled: MarkerPatterns, symbols: object) -> MarkerMatch | None:
    search = MarkerSearch(compiled)
    for symbol in symbols:
        if (match := search.push(symbol)) is not None:
            return match
    return search.best


@given(pattern=patterns(), text=st.text("abc. ", max_size=12))
@settings(max_examples=400, deadline=None)
def test_the_match_is_that_of_re(pattern, text):
    expected = re.compile(pattern, re.DOTALL)
    if expected.fullmatch(""):
        with pytest.raises(ValueError, match="matches the empty text"):
            MarkerPatterns([("it", parse_pattern(pattern, ()))])
        return
    match = first_match(MarkerPatterns([("it", parse_pattern(pattern, ()))]), text)
    found = expected.search(text)
    assert (match is None) == (found is None)
    if match is not None:
        assert (match.start, match.end) == found.span()
        groups = {name: text[start:end] for name, (start, end) in match.spans.items()}
        assert groups == {name: value for name, value in found.groupdict().items() if value is not None}


@given(pattern=patterns(), text=st.text("abc. ", max_size=12))
@settings(max_examples=200, deadline=None)
def test_what_is_free_is_in_no_match(pattern, text):
    if re.compile(pattern).fullmatch(""):
        return
    search = MarkerSearch(MarkerPatterns([("it", parse_pattern(pattern, ()))]))
    num_free = 0
    for symbol in text:
        match = search.push(symbol)
        num_free = max(num_free, search.num_free)
        if match is not None:
            break
    assert search.best is None or search.best.start >= num_free


def test_a_match_is_certain_as_soon_as_nothing_better_can_come():
    search = MarkerSearch(MarkerPatterns([("it", literal("ab", ()))]))
    assert [search.push(symbol) is not None for symbol in "xab"] == [False, False, True]


def test_of_two_that_begin_together_the_earlier_wins():
    compiled = MarkerPatterns([("long", literal("<ab>", ())), ("short", literal("<a", ()))])
    assert first_match(compiled, "x<ab>").tag == "long"
    assert first_match(compiled, "x<ax").tag == "short"


def test_a_token_is_matched_by_what_spells_it_and_by_no_other_text():
    token = MarkerToken("<t>", "<t>")
    compiled = MarkerPatterns([("it", parse_pattern(r"a<t>[^x]+z", ["<t>"]))])
    assert first_match(compiled, ["a", token, token, "z"]) is not None
    assert first_match(compiled, [*"a<t>bz"]) is None
    assert first_match(MarkerPatterns([("it", parse_pattern("a[^>]b", ["<t>"]))]), ["a", token, "b"]) is None


@pytest.mark.parametrize(
    "pattern",
    [
        "a(?=b)",
        "a(?!b)",
        "(?<=a)b",
        r"(a)\1",
        "^a",
        "a$",
        r"\bab",
        r"a\Z",
        "(?i)ab",
        "a++",
        "(?>a)",
        "a{200}",
        "a(",
    ],
)
def test_a_pattern_that_a_stream_cannot_be_searched_for_is_refused(pattern):
    with pytest.raises(ValueError, match=re.escape(repr(pattern))):
        parse_pattern(pattern, ())


def test_patterns_that_explode_in_re_take_linear_time():
    assert find_all("(?:(a|a)*)*b", "a" * 3_000) == []
    with pytest.raises(ValueError, match="states"):
        MarkerPatterns([("it", parse_pattern("(?:(?:a{99}){99}){99}", ()))])


@given(text=st.text("<p>=ab/ ", max_size=60))
@settings(max_examples=200, deadline=None)
def test_all_matches_are_those_of_finditer(text):
    pattern = r"<p=(?P<key>[^>]+)>\s*(?P<value>.*?)\s*</p>"
    text = text.replace("p", "<p=a>").replace("/", "</p>")
    assert find_all(pattern, text) == [match.groupdict() for match in re.finditer(pattern, text, re.DOTALL)]
