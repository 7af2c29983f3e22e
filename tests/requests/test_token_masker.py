"""Words of masks."""

import numpy as np
import pytest

from jinfer.errors import RequestError
from jinfer.requests.token_masker import forbid_tokens, min_tokens_error, num_mask_words


@pytest.mark.parametrize(("vocab_size", "num_words"), [(1, 1), (32, 1), (33, 2), (151_936, 4748)])
def test_a_bit_for_each_token(vocab_size, num_words):
    assert num_mask_words(vocab_size) == num_words


def test_tokens_are_taken_out_of_a_mask():
    words = np.array([0x80000001, 2], np.uint32)
    assert forbid_tokens(words, [31, 5])
    assert words.tolist() == [1, 2]
    assert forbid_tokens(words, [33])
    assert not forbid_tokens(words, [0])


def test_the_error_of_min_tokens_has_both_numbers():
    error = min_tokens_error(3, 10)
    assert isinstance(error, RequestError)
    assert "after 3 tokens" in str(error)
    assert "min_tokens=10" in str(error)
