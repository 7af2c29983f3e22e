"""The rules and maskers that requests get, and the life of the compiler behind them."""

import threading

import numpy as np
import pytest

from jinfer import RequestError, SamplingParams, StructuredOutputs
from jinfer.requests.filtered_masker import FilteredMasker
from jinfer.requests.prompts import Prompt
from jinfer.requests.request import Request
from jinfer.requests.request_factory import RequestFactory
from jinfer.requests.token_masker import num_mask_words
from jinfer.text.grammar.grammar_masker import GrammarMasker
from jinfer.text.tokenizer import Tokenizer
from tests.checkpoints import BOS, BOS_ID, EOS, EOS_ID, VOCAB_SIZE, tiny_tokenizer
from tests.requests.test_request_factory import LIMITS
from tests.text.grammar.walking import allowed_ids

needs_llguidance = pytest.mark.usefixtures("llguidance")
CHOICE = StructuredOutputs(choice=["qz", "cat"])


@pytest.fixture
def llguidance():
    return pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer(), special_tokens={"bos_token": BOS, "eos_token": EOS})


@pytest.fixture(scope="module")
def factory(tokenizer):
    made = new_factory(tokenizer)
    yield made
    made.close()


def new_factory(tokenizer: Tokenizer | None, *, makes_maskers: bool = True) -> RequestFactory:
    return RequestFactory(
        tokenizer=tokenizer,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=frozenset({EOS_ID}),
        sampling_defaults={},
        limits=LIMITS,
        makes_maskers=makes_maskers,
    )


def create(factory: RequestFactory, **params) -> Request:
    return factory.create(Prompt(token_ids=(BOS_ID,)), SamplingParams(**params), waits=True)


@pytest.mark.parametrize(
    "params", [{}, {"presence_penalty": 1.0}, {"allowed_token_ids": [5]}, {"bad_words": ["a"]}]
)
def test_rules_that_are_the_same_for_every_token_need_no_masker(factory, params):
    request = create(factory, n=2, **params)
    assert [sequence.masker for sequence in request.sequences] == [None, None]
    assert (request.logits_rules is None) == (not params)


@needs_llguidance
def test_a_structure_is_a_grammar_of_its_own_for_each_sequence(factory, tokenizer):
    first, second = create(factory, n=2, structured_outputs=CHOICE).sequences
    assert isinstance(first.masker, GrammarMasker)
    assert isinstance(second.masker, GrammarMasker)
    for token_id in tokenizer.encode("cat", False):
        first.masker.accept(token_id)
    assert (first.masker.is_finished, second.masker.is_finished) == (True, False)


def test_bad_words_of_several_tokens_are_a_masker(factory, tokenizer):
    q, z = tokenizer.encode("qz", False)
    first, second = create(factory, n=2, bad_words=["qz"]).sequences
    assert isinstance(first.masker, FilteredMasker)
    first.masker.accept(q)
    assert z not in allowed_ids(first.masker, VOCAB_SIZE)
    assert z in allowed_ids(second.masker, VOCAB_SIZE)


@needs_llguidance
def test_a_structure_and_a_mask_are_one_masker(factory, tokenizer):
    cat = set(tokenizer.encode("cat", False))
    (sequence,) = create(factory, structured_outputs=CHOICE, allowed_token_ids=sorted(cat)).sequences
    assert isinstance(sequence.masker, FilteredMasker)
    assert allowed_ids(sequence.masker, VOCAB_SIZE) <= cat
    (sequence,) = create(factory, structured_outputs=CHOICE, allowed_token_ids=[BOS_ID]).sequences
    assert not sequence.masker.fill(np.empty(num_mask_words(VOCAB_SIZE), np.uint32))
    assert "allowed_token_ids and bad_words leave" in str(sequence.masker.error)


@needs_llguidance
def test_a_bad_word_is_kept_out_of_a_structure(factory, tokenizer):
    *before, last = tokenizer.encode("qz", False)
    (free,) = create(factory, structured_outputs=CHOICE).sequences
    (kept,) = create(factory, structured_outputs=CHOICE, bad_words=["qz"]).sequences
    assert before
    for token_id in before:
        free.masker.accept(token_id)
        kept.masker.accept(token_id)
    assert allowed_ids(free.masker, VOCAB_SIZE) - allowed_ids(kept.masker, VOCAB_SIZE) == {last}


@needs_llguidance
def test_a_grammar_that_is_refused_is_the_callers_error_where_it_waits(factory):
    with pytest.raises(RequestError, match="the grammar cannot be kept"):
        create(factory, structured_outputs=StructuredOutputs(regex="(?=a)b"))
    request = factory.create(
        Prompt(token_ids=(BOS_ID,)),
        SamplingParams(structured_outputs=StructuredOutputs(grammar="start: nothing")),
    )
    masker = request.sequences[0].masker
    assert isinstance(masker, GrammarMasker)
    with pytest.raises(RequestError):
        masker.wait()
    assert masker.is_ready
    assert "the grammar cannot be kept" in str(masker.error)


@needs_llguidance
def test_of_several_prompts_the_one_with_the_wrong_grammar_is_named(factory):
    prompts = [Prompt(token_ids=(BOS_ID,))] * 2
    wrong = SamplingParams(structured_outputs=StructuredOutputs(grammar="start: nothing"))
    with pytest.raises(RequestError, match=r"^prompts\[1\]: structured_outputs: "):
        factory.create_all(prompts, [SamplingParams(structured_outputs=CHOICE), wrong], waits=True)


def test_prompts_that_share_parameters_share_what_follows_from_them(factory, tokenizer):
    prompts = [Prompt(token_ids=(BOS_ID,))] * 3
    params, other = (SamplingParams(bad_words=["qz", "a"], n=2, seed=seed) for seed in (1, 2))
    first, second, third = factory.create_all(prompts, [params, params, other])
    assert first.params is second.params is not third.params
    assert first.logits_rules is second.logits_rules is not third.logits_rules
    q, z = tokenizer.encode("qz", False)
    maskers = [sequence.masker for request in (first, second) for sequence in request.sequences]
    assert len(set(maskers)) == 4
    maskers[0].accept(q)
    assert [z in allowed_ids(masker, VOCAB_SIZE) for masker in maskers] == [False, True, True, True]


def test_checks_alone_make_no_masker(tokenizer):
    request = create(new_factory(tokenizer, makes_maskers=False), structured_outputs=CHOICE, bad_words=["qz"])
    assert request.sequences[0].masker is None
    assert request.logits_rules is not None


@pytest.mark.parametrize(
    "params", [{"bad_words": ["a"]}, {"structured_outputs": CHOICE}], ids=["bad_words", "structured_outputs"]
)
def test_without_a_tokenizer_there_are_no_words(params):
    with pytest.raises(
        RequestError, match=f"^{next(iter(params))} needs? a tokenizer, and the model has none"
    ):
        create(new_factory(None), **params)


@needs_llguidance
def test_a_closed_factory_has_ended_what_compiles(tokenizer):
    before = {thread for thread in threading.enumerate() if thread.name == "jinfer-grammars"}
    made = new_factory(tokenizer)
    made.close()
    made = new_factory(tokenizer)
    create(made, structured_outputs=CHOICE)
    made.close()
    made.close()
    with pytest.raises(RequestError, match="the engine was closed"):
        create(made, structured_outputs=StructuredOutputs(regex="other"))
    for thread in {each for each in threading.enumerate() if each.name == "jinfer-grammars"} - before:
        thread.join(60)
        assert not thread.is_alive()
