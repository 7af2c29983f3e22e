"""Bad words as tokens: at the beginning of an output and behind a space."""

import pytest

from jinfer import RequestError
from jinfer.requests.bad_words import BadWords
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import VOCAB_SIZE, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


def ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("word", ["zq", " zq", "  zq"])
def test_a_word_is_met_at_the_beginning_and_behind_a_space(tokenizer, word):
    bad = BadWords.of([word], tokenizer, VOCAB_SIZE)
    for text in ("zq", " zq"):
        *before, last = ids(tokenizer, text)
        assert before
        assert bad.forbidden_after(before) == {last}
        assert bad.forbidden_after([5, 6, *before]) == {last}
        assert bad.forbidden_after([*before, 5]) == set()
    assert bad.forbidden_after([]) == bad.single_ids == set()


def test_a_word_of_one_token_is_never_allowed(tokenizer):
    (the,) = ids(tokenizer, " the")
    bad = BadWords.of(["the"], tokenizer, VOCAB_SIZE)
    assert the in bad.single_ids
    assert the not in bad.forbidden_after([the])


def test_white_space_may_be_a_bad_word(tokenizer):
    bad = BadWords.of(["\n"], tokenizer, VOCAB_SIZE)
    assert bad.single_ids == set(ids(tokenizer, "\n"))


def test_words_that_begin_alike_are_all_met(tokenizer):
    bad = BadWords.of(["qza", "qzb", "qz"], tokenizer, VOCAB_SIZE)
    q, z = ids(tokenizer, "qz")
    assert bad.forbidden_after([q]) == {z}
    assert bad.forbidden_after([q, z]) == {*ids(tokenizer, "a"), *ids(tokenizer, "b")}
    assert 1 in bad.lengths
    assert 2 in bad.lengths


def test_a_token_without_a_logit_is_refused(tokenizer):
    (the,) = ids(tokenizer, " the")
    with pytest.raises(
        RequestError, match=f"bad_words has ' the' with token id {the}, and the model has {the} "
    ):
        BadWords.of(["the"], tokenizer, the)


def test_a_word_without_tokens_is_refused():
    class Silent:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return []

    with pytest.raises(
        RequestError, match="bad_words has 'x', which the tokenizer makes no tokens of"
    ) as caught:
        BadWords.of(["x"], Silent(), VOCAB_SIZE)
    assert caught.value.param == "bad_words"
