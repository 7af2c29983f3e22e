"""Many rows at once."""

import random
import time

import numpy as np

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.requests.token_masker import num_mask_words
from jinfer.text.grammar import mask_filling
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.limits import GrammarLimits
from jinfer.text.grammar.mask_filling import accept_tokens, fill_masks
from tests.text.grammar.walking import good


class FirstToken:
    """A masker of another kind, that allows token 0."""

    is_ready, error, is_finished = True, None, False

    def __init__(self):
        self.accepted = []

    def accept(self, token_id):
        self.accepted.append(token_id)

    def fill(self, words):
        words[:] = 0
        words[0] = 1
        return True


def test_each_row_is_what_its_masker_fills(demo):
    texts = ["red", "green", "blue", "a", "b"]
    maskers = [demo.masker(StructuredOutputs(choice=[text, text * 2])) for text in texts]
    draw = random.Random(0)
    for masker in maskers:
        masker.accept(draw.choice(sorted(demo.allows(masker))))
    rows = np.full((6, num_mask_words(demo.vocab_size)), 0xFFFFFFFF, np.uint32)
    assert fill_masks([*maskers[:3], FirstToken(), *maskers[3:]], rows) == [True] * 6
    for row, masker in zip(rows[[0, 1, 2, 4, 5]], maskers, strict=True):
        alone = np.empty_like(row)
        masker.fill(alone)
        np.testing.assert_array_equal(row, alone)
    assert rows[3].tolist() == [1] + [0] * (rows.shape[1] - 1)


def test_threads_fill_rows_of_one_grammar_as_one_does(demo, monkeypatch):
    compiler = GrammarCompiler(
        demo.tokenizer,
        vocab_size=demo.vocab_size,
        eos_token_ids=demo.eos_token_ids,
        limits=GrammarLimits(num_lexers=4),
    )
    outputs = StructuredOutputs(json={"type": "array", "items": {"type": "string", "maxLength": 9}})
    draw = random.Random(0)
    maskers = [good(compiler, outputs) for _ in range(24)]
    for masker in maskers:
        for _ in range(draw.randrange(12)):
            masker.accept(draw.choice(sorted(demo.allows(masker))))
    rows = np.zeros((2, len(maskers), num_mask_words(demo.vocab_size)), np.uint32)
    for words, num_threads in zip(rows, (1, 4), strict=True):
        monkeypatch.setattr(mask_filling, "NUM_THREADS", num_threads)
        assert all(fill_masks(maskers, words))
    compiler.close()
    np.testing.assert_array_equal(rows[0], rows[1])
    assert len(np.unique(rows[0], axis=0)) > 3, "rows in different states"


def test_tokens_are_accepted_at_once_as_one_after_the_other(demo):
    """And a token that one row may not have is that row's error alone."""
    draw = random.Random(0)
    maskers = [demo.masker(StructuredOutputs(json={"type": "string"})) for _ in range(6)]
    copies = [masker.copy() for masker in maskers]
    (never,) = demo.ids("z")
    for _ in range(5):
        token_ids = [draw.choice(sorted(demo.allows(masker))) for masker in maskers]
        other = FirstToken()
        accept_tokens([*zip(maskers, token_ids, strict=True), (other, 7)])
        assert other.accepted == [7]
        for masker, token_id in zip(copies, token_ids, strict=True):
            masker.accept(token_id)
        assert [demo.allows(one) for one in maskers] == [demo.allows(one) for one in copies]
    fresh = [demo.masker(StructuredOutputs(json={"type": "string"})) for _ in range(2)]
    accept_tokens([(fresh[0], never), (fresh[1], demo.ids('"')[0])])
    assert [one.error is None for one in fresh] == [False, True]


def test_a_failed_row_harms_no_other(demo):
    wrong, right = (demo.masker(StructuredOutputs(choice=["ab"])) for _ in range(2))
    wrong.accept(demo.ids("z")[0])
    refused = demo.compiler.masker(StructuredOutputs(choice=["ab"]))
    rows = np.full((4, num_mask_words(demo.vocab_size)), 0xFFFFFFFF, np.uint32)
    assert fill_masks([wrong, refused, right], rows) == [False, True, True]
    assert not rows[0].any()
    np.testing.assert_array_equal(rows[1], rows[2])
    assert (rows[3] == 0xFFFFFFFF).all()  # more rows than maskers: left as they are


def test_no_rows(demo):
    assert fill_masks([], np.empty((0, num_mask_words(demo.vocab_size)), np.uint32)) == []


def test_every_thread_gets_rows_of_its_own(demo, monkeypatch):
    """The rows of a lexer stay together, and no row is left out or filled twice."""
    monkeypatch.setattr(mask_filling, "NUM_THREADS", 3)
    compiler = GrammarCompiler(
        demo.tokenizer,
        vocab_size=demo.vocab_size,
        eos_token_ids=demo.eos_token_ids,
        limits=GrammarLimits(num_lexers=5),
    )
    outputs = StructuredOutputs(json={"type": "string"})
    deadline = time.monotonic() + 60
    while len({good(compiler, outputs).lexer for _ in range(5)}) < 5:  # they are compiled one after the other
        assert time.monotonic() < deadline
        time.sleep(0.01)
    maskers = [good(compiler, outputs) for _ in range(23)]
    filled: list[list[int]] = []
    mask_filling._on_threads(
        [(masker, row) for row, masker in enumerate(maskers)],
        lambda thread, pairs: filled.append([row for _, row in pairs]),
    )
    compiler.close()
    assert sorted(row for rows in filled for row in rows) == list(range(23))
    threads_of_lexers: dict[object, set[int]] = {}
    for thread, rows in enumerate(filled):
        for row in rows:
            threads_of_lexers.setdefault(maskers[row].lexer, set()).add(thread)
    assert all(len(threads) == 1 for threads in threads_of_lexers.values())
    assert max(map(len, filled)) <= 10, "5 lexers of 4 or 5 rows: two of them for a thread"
