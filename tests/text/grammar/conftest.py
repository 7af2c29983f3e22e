"""Compilers of the demo model's tokenizer, which is always there, and of a real one."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.grammar_masker import GrammarMasker
from jinfer.text.tokenizer import Tokenizer
from tests.text.grammar import walking

pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")

DEMO_MODEL = Path(__file__).resolve().parents[3] / "jinfer" / "demo_model"
QWEN3_VOCAB_SIZE = 151_936  # more than the tokenizer's ids


class Model(NamedTuple):
    """What a grammar needs of a model."""

    tokenizer: Tokenizer
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    compiler: GrammarCompiler

    def masker(self, outputs: StructuredOutputs) -> GrammarMasker:
        return walking.good(self.compiler, outputs)

    def refusal(self, outputs: StructuredOutputs) -> str:
        error = walking.compiled(self.compiler, outputs).error
        assert error is not None
        return str(error)

    def ids(self, *parts: str) -> list[int]:
        """The tokens of texts, each of which is tokenized by itself."""
        return [token_id for part in parts for token_id in self.tokenizer.encode(part, False)]

    def accepts(self, masker: GrammarMasker, *parts: str) -> bool:
        return walking.accepts(masker, self.ids(*parts), self.vocab_size)

    def allows(self, masker: GrammarMasker) -> set[int]:
        return walking.allowed_ids(masker, self.vocab_size)

    def allows_end(self, masker: GrammarMasker) -> bool:
        return set(self.eos_token_ids) <= self.allows(masker)


def model(tokenizer: Tokenizer, vocab_size: int, eos_token_ids: tuple[int, ...]) -> Model:
    compiler = GrammarCompiler(tokenizer, vocab_size=vocab_size, eos_token_ids=eos_token_ids)
    return Model(tokenizer, vocab_size, eos_token_ids, compiler)


@pytest.fixture(scope="session")
def demo() -> Iterator[Model]:
    tokenizer = Tokenizer.from_directory(DEMO_MODEL)
    assert tokenizer.eos_token_id is not None
    made = model(tokenizer, tokenizer.vocab_size, (tokenizer.eos_token_id,))
    yield made
    made.compiler.close()


@pytest.fixture(scope="session")
def qwen3_model(qwen3: Tokenizer, shared_data: Callable[[str], Path]) -> Iterator[Model]:
    generation = json.loads(shared_data("tokenizers/qwen3/generation_config.json").read_text())
    made = model(qwen3, QWEN3_VOCAB_SIZE, tuple(generation["eos_token_id"]))
    yield made
    made.compiler.close()
