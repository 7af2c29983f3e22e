"""Masks, ends and copies."""

import random

import numpy as np
import pytest

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.requests.token_masker import TokenMasker, forbid_tokens, num_mask_words
from tests.text.grammar.walking import allowed_ids, random_walk


def outputs_of(model, masker, num_outputs=30):
    texts = set()
    for seed in range(num_outputs):
        ids = random_walk(
            masker.copy(),
            random.Random(seed),
            vocab_size=model.vocab_size,
            eos_token_ids=model.eos_token_ids,
        )
        texts.add(model.tokenizer.decode(ids))
    return texts


def test_a_choice_is_made_and_nothing_else_said(demo):
    choice = ["red", "reddish", "", 'a "quoted" \\ text', "é😀\n"]
    masker: TokenMasker = demo.masker(StructuredOutputs(choice=choice))
    assert outputs_of(demo, masker, 100) == set(choice)


def test_an_expression_matches_the_whole_output(demo):
    texts = outputs_of(demo, demo.masker(StructuredOutputs(regex=r"[ab]{2}/(x|yy)")))
    assert texts <= {f"{a}{b}/{end}" for a in "ab" for b in "ab" for end in ("x", "yy")}
    assert len(texts) > 4


def test_a_grammar_of_lark(demo):
    grammar = 'start: "(" start ")" | NUMBER\nNUMBER: /[0-9]{1,3}/'
    for text in outputs_of(demo, demo.masker(StructuredOutputs(grammar=grammar))):
        inner = text.strip("()")
        assert inner.isdigit()
        assert text.count("(") == text.count(")")


def test_a_list_of_grammars(demo):
    grammar = (
        '{"grammars": [{"lark_grammar": "start: \\"n=\\" @n"}, {"name": "n", "json_schema": {"const": 7}}]}'
    )
    assert outputs_of(demo, demo.masker(StructuredOutputs(grammar=grammar)), 3) == {"n=7"}


def test_every_end_of_sequence_token_ends_what_may_end(qwen3_model):
    """tokenizer.json alone suggests another than the chat's, and generation_config.json has both."""
    assert len(qwen3_model.eos_token_ids) == 2
    for eos_token_id in qwen3_model.eos_token_ids:
        masker = qwen3_model.masker(StructuredOutputs(choice=["one", "one two"]))
        assert not qwen3_model.allows_end(masker)
        assert qwen3_model.accepts(masker, "one")
        assert qwen3_model.allows_end(masker)
        assert not masker.is_finished
        masker.accept(eos_token_id)
        assert masker.is_finished
        assert masker.error is None


def test_it_is_finished_where_only_the_end_may_follow(demo):
    masker = demo.masker(
        StructuredOutputs(json={"type": "object", "properties": {}, "additionalProperties": False})
    )
    assert demo.accepts(masker, "{")
    assert not masker.is_finished
    assert demo.accepts(masker, "}")
    assert masker.is_finished
    assert demo.allows(masker) == set(demo.eos_token_ids)


def test_no_padding_of_the_vocabulary_is_allowed(qwen3_model):
    masker = qwen3_model.masker(StructuredOutputs(regex=r"(.|\n)*"))
    allowed = qwen3_model.allows(masker)
    assert len(allowed) > 150_000
    assert max(allowed) < qwen3_model.tokenizer.vocab_size < qwen3_model.vocab_size


def test_text_takes_no_added_token(qwen3_model):
    """A JSON string can then hold no marker."""
    masker = qwen3_model.masker(StructuredOutputs(json={"type": "string"}))
    added = set(qwen3_model.tokenizer.added_tokens.values())
    assert qwen3_model.accepts(masker, '"')
    assert not added & qwen3_model.allows(masker)
    assert qwen3_model.accepts(masker, "think", '"')


@pytest.mark.parametrize("character", [" ", "\n", "\t"])
def test_white_space_is_bounded(demo, character):
    masker = demo.masker(StructuredOutputs(json={"type": "object"}))
    (one,) = demo.ids(character)
    assert demo.accepts(masker, "{")
    count = 0
    while one in demo.allows(masker):
        masker.accept(one)
        count += 1
        assert count <= 8
    assert count == 8


def test_a_schema_may_say_what_white_space_is(demo):
    schema = {"type": "object", "x-guidance": {"whitespace_flexible": False, "whitespace_pattern": None}}
    masker = demo.masker(StructuredOutputs(json=schema))
    assert demo.accepts(masker, "{")
    assert demo.ids(" ")[0] not in demo.allows(masker)


def test_a_copy_goes_its_own_way(demo):
    masker = demo.masker(StructuredOutputs(choice=["ab cd", "ab ef"]))
    early = masker.copy()
    assert demo.accepts(masker, "ab")
    late = masker.copy()
    expected = demo.allows(masker)
    assert demo.accepts(late, " cd")
    assert late.is_finished
    assert not masker.is_finished
    assert demo.allows(masker) == expected
    assert demo.accepts(masker, " ef")
    assert demo.accepts(early, "ab", " cd")


def test_a_token_that_the_mask_forbids_is_an_error(demo):
    masker = demo.masker(StructuredOutputs(choice=["ab"]))
    other = masker.copy()
    (wrong,) = demo.ids("z")
    masker.accept(wrong)
    assert "satisfy the grammar" in str(masker.error)
    words = np.full(num_mask_words(demo.vocab_size), 1, np.uint32)
    assert masker.fill(words) is False
    assert not words.any()
    assert other.error is None
    assert demo.accepts(other, "ab")


def test_min_tokens_leaves_a_finished_grammar_no_token(demo):
    masker = demo.masker(StructuredOutputs(choice=["ab"]))
    words = np.zeros(num_mask_words(demo.vocab_size), np.uint32)
    assert masker.fill(words)
    assert forbid_tokens(words, demo.eos_token_ids)
    assert demo.accepts(masker, "ab")
    assert masker.fill(words)
    assert not forbid_tokens(words, demo.eos_token_ids)


def test_an_empty_output_has_only_its_end(demo):
    masker = demo.masker(StructuredOutputs(regex=""))
    assert allowed_ids(masker, demo.vocab_size) == set(demo.eos_token_ids)
