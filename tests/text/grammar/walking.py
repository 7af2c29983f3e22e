"""Outputs under a grammar, without a model: tokens are drawn from those that the masks allow."""

import random
import threading
from collections.abc import Sequence

import numpy as np

from jinfer.requests.structured_outputs import StructuredOutputs
from jinfer.requests.token_masker import TokenMasker, num_mask_words
from jinfer.text.grammar.grammar_compiler import GrammarCompiler
from jinfer.text.grammar.grammar_masker import GrammarMasker

MAX_WAIT_S = 300  # for a machine that does much else


def compiled(compiler: GrammarCompiler, outputs: StructuredOutputs) -> GrammarMasker:
    """The masker, when it is ready."""
    ready = threading.Event()
    masker = compiler.masker(outputs, on_ready=ready.set)
    assert ready.wait(MAX_WAIT_S)
    assert masker.is_ready
    return masker


def good(compiler: GrammarCompiler, outputs: StructuredOutputs) -> GrammarMasker:
    """The masker of a grammar that is not refused."""
    masker = compiled(compiler, outputs)
    assert masker.error is None
    return masker


def allowed_ids(masker: TokenMasker, vocab_size: int) -> set[int]:
    """The tokens of the next mask."""
    words = np.full(num_mask_words(vocab_size), 0xFFFFFFFF, np.uint32)
    masker.fill(words)
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())


def accepts(masker: TokenMasker, token_ids: Sequence[int], vocab_size: int) -> bool:
    """Whether each token is allowed behind those before it. The masker has then taken them."""
    for token_id in token_ids:
        if token_id not in allowed_ids(masker, vocab_size):
            return False
        masker.accept(token_id)
        assert masker.error is None
    return True


def random_walk(
    masker: TokenMasker,
    draw: random.Random,
    *,
    vocab_size: int,
    eos_token_ids: Sequence[int],
    closing_ids: Sequence[int] = (),
    ending_ids: Sequence[int] = (),
    max_tokens: int = 2000,
) -> list[int]:
    """The tokens of an output up to its end, without end-of-sequence tokens.

    Half of the time a token of `closing_ids` is taken where one is allowed, so that random text ends. Every
    tenth time those of `ending_ids` are taken, one after the other, as far as they are allowed.
    """
    token_ids: list[int] = []
    ending: list[int] = []
    while not masker.is_finished:
        assert len(token_ids) < max_tokens
        allowed = allowed_ids(masker, vocab_size)
        assert allowed
        closing = sorted(allowed.intersection(closing_ids))
        chosen = draw.choice(closing) if closing and draw.random() < 0.5 else draw.choice(sorted(allowed))
        if ending_ids and not ending and draw.random() < 0.1:
            ending = list(ending_ids)
        if ending and ending[0] in allowed:
            chosen = ending.pop(0)
        else:
            ending = []
        masker.accept(chosen)
        assert masker.error is None
        token_ids += [chosen] if chosen not in eos_token_ids else []
    return token_ids
