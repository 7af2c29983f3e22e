"""Work of Detokenizer for a token, which does not grow with the text."""

import statistics
import sys

import pytest

from jinfer.text.detokenizer import Detokenizer
from jinfer.text.tokenizer import Tokenizer
from tests.text.detokenizing import decode, ids_of, run


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
