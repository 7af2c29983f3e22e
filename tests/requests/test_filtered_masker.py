"""Masks without bad words and tokens that are not allowed, alone and over another masker."""

import numpy as np
import pytest

from jinfer import RequestError
from jinfer.requests.bad_words import BadWords
from jinfer.requests.filtered_masker import FilteredMasker
from jinfer.requests.token_masker import TokenMasker, mask_of
from tests.text.grammar.walking import allowed_ids

VOCAB_SIZE = 40
ALL = set(range(VOCAB_SIZE))
BAD = BadWords({(): frozenset({9}), (7,): frozenset({8}), (7, 5): frozenset({5, 6})})


class Counting:
    """A masker that allows the tokens from the number of those taken on, and is finished after three."""

    def __init__(self, num_taken: int = 0, error: RequestError | None = None) -> None:
        self.num_taken = num_taken
        self.error = error
        self.is_ready = True

    @property
    def is_finished(self) -> bool:
        return self.num_taken == 3

    def fill(self, words) -> bool:
        words[:] = mask_of(range(self.num_taken, VOCAB_SIZE), VOCAB_SIZE)
        return self.error is None

    def accept(self, token_id: int) -> None:
        self.num_taken += 1

    def copy(self) -> "Counting":
        return Counting(self.num_taken, self.error)


def filtered(inner: TokenMasker | None = None, allowed=ALL, bad_words: BadWords = BAD) -> FilteredMasker:
    return FilteredMasker(inner, allowed=mask_of(sorted(allowed), VOCAB_SIZE), bad_words=bad_words)


def test_the_last_token_of_a_bad_word_is_forbidden_where_it_would_end_it():
    masker = filtered()
    assert masker.is_ready
    assert allowed_ids(masker, VOCAB_SIZE) == ALL  # single ones are out of `allowed` already
    for token_id, forbidden in [(7, {8}), (5, {5, 6}), (7, {8}), (7, {8}), (1, set())]:
        masker.accept(token_id)
        assert allowed_ids(masker, VOCAB_SIZE) == ALL - forbidden
        assert masker.error is None
        assert not masker.is_finished


def test_a_copy_goes_its_own_way():
    masker = filtered(Counting())
    masker.accept(7)
    copy = masker.copy()
    masker.accept(5)
    assert allowed_ids(masker, VOCAB_SIZE) == ALL - {0, 1, 5, 6}
    assert allowed_ids(copy, VOCAB_SIZE) == ALL - {0, 8}
    for token_id in (10, 11):
        copy.accept(token_id)
    assert (copy.is_finished, masker.is_finished) == (True, False)


def test_what_both_maskers_allow_is_allowed():
    masker = filtered(Counting(num_taken=5), allowed={3, 8, 20})
    assert allowed_ids(masker, VOCAB_SIZE) == {8, 20}


def test_nothing_left_is_an_error_that_names_both():
    masker = filtered(Counting(num_taken=5), allowed={3, 4})
    words = np.empty(2, np.uint32)
    assert not masker.fill(words)
    assert not words.any()
    assert "allowed_token_ids and bad_words leave" in str(masker.error)


def test_bad_words_alone_may_leave_nothing():
    masker = filtered(allowed={7, 8}, bad_words=BadWords({(7,): frozenset({7, 8})}))
    masker.accept(7)
    assert not masker.fill(np.empty(2, np.uint32))
    assert "bad_words forbid every token" in str(masker.error)


@pytest.mark.parametrize(("taken", "token_id"), [([7], 8), ([], 30)])
def test_a_token_that_a_mask_forbids_is_an_error(taken, token_id):
    masker = filtered(allowed=ALL - {30})
    for each in taken:
        masker.accept(each)
    masker.accept(token_id)
    assert f"token {token_id} came" in str(masker.error)


def test_the_other_maskers_state_shows():
    refused = RequestError("no")
    inner = Counting(error=refused)
    masker = filtered(inner)
    assert masker.error is refused
    assert not masker.fill(np.empty(2, np.uint32))
    inner.is_ready = False
    assert not masker.is_ready
