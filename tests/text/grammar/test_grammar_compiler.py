"""Compiling: what is refused, kept, bounded and shared."""

import builtins
import itertools
import json
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from jinfer.errors import RequestError
from jinfer.requests.structured_outputs import MAX_CHOICES, StructuredOutputs
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.library import llguidance
from jinfer.text.grammar.limits import GrammarLimits
from tests.text.grammar.walking import MAX_WAIT_S, allowed_ids, compiled, good, random_walk


@pytest.fixture
def make_compiler(demo):
    """Compilers of the demo model, closed at the end."""
    made = []

    def make(eos_token_ids=demo.eos_token_ids, vocab_size=demo.vocab_size, **limits):
        made.append(
            GrammarCompiler(
                demo.tokenizer,
                vocab_size=vocab_size,
                eos_token_ids=eos_token_ids,
                limits=replace(GrammarLimits(), **limits),
            )
        )
        return made[-1]

    yield make
    for compiler in made:
        compiler.close()


REFUSED = [
    (StructuredOutputs(json={"type": "array", "uniqueItems": True}), "uniqueItems"),
    (StructuredOutputs(json={"not": {"type": "string"}}), "not"),
    (StructuredOutputs(json={"$ref": "http://127.0.0.1:1/schema.json"}), "does not fetch"),
    (StructuredOutputs(json={"type": "string", "format": "unheard-of"}), "unheard-of"),
    (StructuredOutputs(json={"type": "string", "pattern": "(?=a)"}), "look"),
    (StructuredOutputs(json={"type": 3}), "type"),
    (StructuredOutputs(json={"const": "\ud800"}), "serializable"),
    (StructuredOutputs(regex="(a)\\1"), "backreferences"),
    (StructuredOutputs(regex="[a"), "unclosed"),
    (StructuredOutputs(grammar="start: nowhere"), "nowhere"),
    (StructuredOutputs(grammar="start: <[4096]>"), "4096"),
    (StructuredOutputs(grammar='{"grammars": [{"lark_grammar": "start: @lost"}]}'), "lost"),
    (StructuredOutputs(grammar='{"grammars": [{"what": 1}]}'), "grammar"),
]


@pytest.mark.parametrize(("outputs", "word"), REFUSED)
def test_what_cannot_be_kept_is_refused_in_the_library_s_words(demo, outputs, word):
    message = demo.refusal(outputs)
    assert message.startswith("structured_outputs: the grammar cannot be kept: ")
    assert word in message
    assert len(message) < 700


MALFORMED = [
    (StructuredOutputs(json={"x-guidance": {"lenient": True}}), "lenient"),
    (StructuredOutputs(json={"x-guidance": 3}), "must be an object"),
    (StructuredOutputs(grammar='{"grammars": []}'), "grammars"),
    (StructuredOutputs(structural_tag={"type": "structural_tag"}), "triggers"),
]


@pytest.mark.parametrize(("outputs", "word"), MALFORMED)
def test_what_is_malformed_is_refused_at_once(demo, outputs, word):
    with pytest.raises(RequestError, match=word):
        demo.compiler.masker(outputs)


def chain(number):
    """Rules, each of which refers to the next."""
    rules = [f'r{index}: "{index}" r{index + 1}' for index in range(number)]
    return "\n".join(["start: r0", *rules, f'r{number}: "x"'])


def references(number):
    """Definitions, each of which refers to the next."""
    defined = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"minimum": 0}]} for i in range(number)}
    return {"$defs": {**defined, f"d{number}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def letters(text):
    return [{"pattern": f".*{letter}.*"} for letter in text]


def test_a_choice_may_be_of_ten_thousand_texts(demo):
    texts = [f"x{number}" for number in range(MAX_CHOICES)]
    for text in ("x1", "x9999"):
        masker = demo.masker(StructuredOutputs(choice=texts))
        assert demo.accepts(masker, text)
        assert demo.allows_end(masker)
    assert not demo.accepts(demo.masker(StructuredOutputs(choice=texts)), "x10000")
    assert not demo.allows_end(demo.masker(StructuredOutputs(choice=texts)))


@pytest.mark.parametrize(
    ("texts", "words"), [(["", "ab"], ["", "ab"]), ([""], [""]), (["a", "ab"], ["a", "ab"])]
)
def test_a_choice_may_be_empty_and_one_text_begin_another(demo, texts, words):
    for word in words:
        masker = demo.masker(StructuredOutputs(choice=texts))
        assert demo.accepts(masker, word)
        assert demo.allows_end(masker)
    assert not demo.accepts(demo.masker(StructuredOutputs(choice=texts)), "b")


BOMBS = {
    "rules that nest": (StructuredOutputs(grammar=chain(8000)), "nest too deeply"),
    "references that nest": (StructuredOutputs(json=references(4000)), "nest too deeply"),
    "digits to count": (StructuredOutputs(json={"type": "integer", "multipleOf": 99999999}), "s of CPU"),
    "expressions of every order": (
        StructuredOutputs(json={"type": "string", "allOf": letters("abcdefghijklmnop")}),
        "",
    ),
    "terminals that double": (
        StructuredOutputs(
            grammar="start: R0\n" + "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(40)) + "\nR40: /a/"
        ),
        "",
    ),
    "alternatives that multiply": (
        StructuredOutputs(
            json={
                "allOf": [{"anyOf": [{"properties": {f"p{i}{j}": {}}} for j in range(9)]} for i in range(9)]
            }
        ),
        "",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_bounded_time_and_harms_nobody(demo, name):
    outputs, word = BOMBS[name]
    started = time.process_time()
    message = demo.refusal(outputs)
    assert word in message
    assert (
        time.process_time() - started < 5
    )  # of this process; the limit is a second, and the machine may be slow
    assert demo.accepts(demo.masker(StructuredOutputs(choice=[f"after {name}"])), f"after {name}")


WALKED_BOMBS = {
    "optional letters": StructuredOutputs(regex="a?" * 500 + "a" * 500),
    "repetitions of repetitions": StructuredOutputs(grammar="start: a{1000}\na: b{1000}\nb: c{1000}\nc: /x/"),
    "one text, many trees": StructuredOutputs(grammar='start: s\ns: s s | s s s | "a" |'),
    "mutual ambiguity": StructuredOutputs(
        grammar='start: a\na: b c d |\nb: a a | "x"\nc: a b a |\nd: a a a a | "x"'
    ),
    "an automaton that remembers": StructuredOutputs(regex=r"(.|\n)*[a-e](.|\n){30}|(.|\n)*[x-z](.|\n){20}"),
    "words of every alphabet": StructuredOutputs(regex=r"(\w{1,1000}\s){1,1000}"),
}


@pytest.mark.parametrize("name", WALKED_BOMBS)
def test_each_mask_of_a_bomb_is_made_in_bounded_time(demo, name):
    """It ends in an error of its own, or goes on."""
    masker, draw, slowest = demo.masker(WALKED_BOMBS[name]), random.Random(0), 0.0
    for _ in range(100):
        started = time.thread_time()
        allowed = sorted(allowed_ids(masker, demo.vocab_size) - set(demo.eos_token_ids))
        slowest = max(slowest, time.thread_time() - started)
        if not allowed or masker.error is not None:
            break
        masker.accept(draw.choice(allowed))
    assert slowest < 0.5  # measured: 0.06


def test_an_ambiguous_text_ends_in_an_error_and_not_in_ever_slower_steps(demo):
    masker = demo.masker(WALKED_BOMBS["mutual ambiguity"])
    (letter,) = demo.ids("x")
    while letter in allowed_ids(masker, demo.vocab_size):
        started = time.thread_time()
        masker.accept(letter)
        assert time.thread_time() - started < 0.5  # measured: 0.02
    assert re.search("max is 1000|limit 5000", str(masker.error))


def test_a_copy_that_fills_the_shared_states_spoils_no_later_request(make_compiler):
    compiler = make_compiler(parser={"max_lexer_states": 2000, "verbose_errors": False})
    outputs = WALKED_BOMBS["an automaton that remembers"]
    draw = random.Random(0)
    masker = good(compiler, outputs)
    for _ in range(2000):
        allowed = sorted(allowed_ids(masker, 4096) - {0})
        if masker.error is not None:
            break
        masker.accept(draw.choice(allowed))
    assert "too many states" in str(masker.error)
    later = good(compiler, outputs)
    assert len(allowed_ids(later, 4096)) > 1000
    assert later.error is None


def when_idle(compiler, outputs):
    """A masker, when the grammar is compiled as often as it will be: the thread has ended."""
    masker = good(compiler, outputs)
    for thread in threading.enumerate():
        if thread.name == "jinfer-grammars":
            thread.join(MAX_WAIT_S)
            assert not thread.is_alive()
    return masker


def test_maskers_of_a_grammar_take_its_lexers_in_turn_and_allow_the_same(make_compiler, demo):
    compiler = make_compiler(num_lexers=3)
    outputs = StructuredOutputs(json={"type": "array", "items": {"enum": ["ab", "abc"]}, "minItems": 3})
    when_idle(compiler, outputs)
    maskers = [good(compiler, outputs) for _ in range(6)]
    lexers = [masker.lexer for masker in maskers]
    assert len(set(lexers)) == 3
    assert lexers[:3] == lexers[3:]
    for token_id in demo.ids('["ab", "abc'):
        assert len({frozenset(allowed_ids(masker, demo.vocab_size)) for masker in maskers}) == 1
        for masker in maskers:
            masker.accept(token_id)
    assert maskers[0].copy().lexer == maskers[0].lexer


def test_a_lexer_that_cannot_be_compiled_again_is_done_without(make_compiler, monkeypatch):
    class Panic(BaseException):
        """What Rust's are."""

    compiler = make_compiler(num_lexers=3)
    compile_once, numbers = llguidance().LLMatcher, itertools.count()

    def fails_after_the_first(*arguments, **options):
        if next(numbers):
            raise Panic
        return compile_once(*arguments, **options)

    monkeypatch.setattr(llguidance(), "LLMatcher", fails_after_the_first)
    outputs = StructuredOutputs(choice=["a"])
    first = when_idle(compiler, outputs)
    assert next(numbers) == 3
    assert good(compiler, outputs).lexer == first.lexer


def test_compiled_grammars_are_kept_and_the_oldest_dropped(make_compiler):
    compiler = make_compiler(max_cached=3)
    for text in ("a", "b", "c"):
        good(compiler, StructuredOutputs(choice=[text]))
    assert compiler.masker(StructuredOutputs(choice=["a"])).is_ready  # now "b" is the oldest
    good(compiler, StructuredOutputs(choice=["d"]))
    assert compiler.num_cached == 3
    assert compiler.masker(StructuredOutputs(choice=["a"])).is_ready
    assert compiler.masker(StructuredOutputs(choice=["c"])).is_ready
    assert not compiler.masker(StructuredOutputs(choice=["b"])).is_ready


def test_only_so_many_may_wait(make_compiler):
    compiler = make_compiler(max_waiting=3)
    with pytest.raises(RequestError, match="3 grammars wait"):
        [compiler.masker(StructuredOutputs(choice=[str(number)])) for number in range(9)]


def test_a_closed_compiler_refuses_and_ends_what_waits(make_compiler):
    compiler = make_compiler()
    maskers = [compiler.masker(StructuredOutputs(choice=[str(number)])) for number in range(9)]
    compiler.close()
    assert maskers[-1].is_ready
    assert "closed" in str(maskers[-1].error)
    with pytest.raises(RequestError, match="closed"):
        compiler.masker(StructuredOutputs(choice=["new"]))


def test_a_model_without_logits_of_all_tokens_is_refused(make_compiler, demo):
    compiler = make_compiler(vocab_size=demo.vocab_size - 1)
    error = compiled(compiler, StructuredOutputs(choice=["a"])).error
    assert f"the tokenizer has {demo.vocab_size} ids" in str(error)


def test_a_tokenizer_that_the_library_cannot_read_is_refused(tiny):
    compiler = GrammarCompiler(tiny["word_piece"], vocab_size=tiny["word_piece"].vocab_size, eos_token_ids=[])
    assert "tokenizer" in str(compiled(compiler, StructuredOutputs(choice=["a"])).error)
    compiler.close()


def test_a_missing_library_is_named_with_the_remedy(demo, monkeypatch):
    real_import = builtins.__import__

    def no_llguidance(name, *rest):
        if name == "llguidance":
            raise ModuleNotFoundError("No module named 'llguidance'")
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_llguidance)
    with pytest.raises(RequestError, match=r"pip install 'jinfer\[structured\]'"):
        demo.compiler.masker(StructuredOutputs(choice=["a"]))


def test_threads_share_a_compiler_and_its_grammars(make_compiler, demo):
    """Eight threads at the same grammars, each with outputs of its own, as one thread gives."""
    compiler = make_compiler(max_cached=4)
    schemas = [
        StructuredOutputs(json={"type": "array", "items": {"enum": [n, "x"]}, "maxItems": 5})
        for n in range(6)
    ]

    def outputs(seed):
        draw = random.Random(seed)
        maskers = [good(compiler, schemas[(seed + n) % 6]) for n in range(12)]
        return [
            random_walk(masker, draw, vocab_size=4096, eos_token_ids=demo.eos_token_ids) for masker in maskers
        ]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(outputs, range(8)))
    assert together == [outputs(seed) for seed in range(8)]
    for ids in together[0]:
        assert isinstance(json.loads(demo.tokenizer.decode(ids)), list)


def test_the_thread_ends_when_nothing_is_to_be_compiled(make_compiler):
    compiler = make_compiler(num_lexers=2)
    compiler.prepare()
    when_idle(compiler, StructuredOutputs(choice=["a"]))
