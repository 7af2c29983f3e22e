"""Ids of all kinds, and the definition of their text, evaluated the slow way: everything is decoded after
every token."""

import functools
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from jinfer.text.detokenizer import Detokenizer
from jinfer.text.tokenizer import Tokenizer

# The tokenizer fixture is the same object for every example. Fourteen tokenizers see as many examples each.
exact = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def decode(tokenizer: Tokenizer, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
    known = [token_id for token_id in ids if tokenizer.has_text(token_id, skip_special_tokens=False)]
    return tokenizer.decode(known, skip_special_tokens)


def completion(
    tokenizer: Tokenizer, context: Sequence[int], ids: Sequence[int], skip_special_tokens: bool
) -> str:
    """What the ids add to the text of the context, from where the two texts part."""
    before = decode(tokenizer, context, skip_special_tokens)
    text = decode(tokenizer, [*context, *ids], skip_special_tokens)
    num_shared = max(n for n in range(len(before) + 1) if text.startswith(before[:n]))
    return text[num_shared:]


def stopped_text(tokenizer, ids, *, context, stop, include, skip, min_tokens) -> tuple[str, str | None]:
    """The definition in Detokenizer's docstring."""
    unsearched = len(completion(tokenizer, context, ids[:min_tokens], skip).rstrip("\ufffd"))
    for num_tokens in range(min_tokens + 1, len(ids) + 1):
        text = completion(tokenizer, context, ids[:num_tokens], skip)
        found = [
            (start, len(word), word)
            for word in stop
            for start in range(len(text))
            if text.startswith(word, start) and start + len(word) > unsearched
        ]
        if found:
            start, length, word = min(found)
            return text[: start + length if include else start], word
    return completion(tokenizer, context, ids, skip), None


def run(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    """All text that is given out, until a stop string or the end."""
    pieces = []
    for token_id in ids:
        pieces.append(detokenizer.add(token_id))
        assert detokenizer.text == "".join(pieces)
        if detokenizer.stop_reason is not None:
            assert detokenizer.finish() == ""
            return "".join(pieces)
    pieces.append(detokenizer.finish())
    assert detokenizer.text == "".join(pieces)
    return "".join(pieces)


@functools.cache
def ids_of_one_byte(tokenizer: Tokenizer) -> list[int]:
    return [i for i in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(i) or b"") == 1] or [0]


def draw_ids(data: st.DataObject, tokenizer: Tokenizer, max_size: int = 24) -> list[int]:
    """Ids of all kinds, repeated more often than chance would: bytes and spaces in runs, ids without a
    token."""
    any_id = st.integers(0, tokenizer.vocab_size + 1)
    euro = st.sampled_from(["€", "🦄", "  a", "\n\n", "</s>", "�", "é"]).map(
        lambda text: tokenizer.encode(text, add_special_tokens=False)
    )
    some_bytes = st.lists(st.sampled_from(ids_of_one_byte(tokenizer)), max_size=6)
    run_of_one = st.tuples(any_id, st.integers(1, 4)).map(lambda pair: [pair[0]] * pair[1])
    some = data.draw(
        st.lists(st.one_of(any_id.map(lambda i: [i]), euro, some_bytes, run_of_one), max_size=max_size)
    )
    ids = [token_id for part in some for token_id in part]
    drop = data.draw(st.integers(0, 3)) if ids else 0  # begin in the middle of something
    return ids[drop:]


def draw_context(data: st.DataObject, tokenizer: Tokenizer) -> list[int]:
    """A prompt: none, one whose last tokens are all of one kind, or any."""
    end = st.tuples(st.integers(0, tokenizer.vocab_size + 1), st.integers(0, 40)).map(
        lambda pair: [pair[0]] * pair[1]
    )
    return draw_ids(data, tokenizer, max_size=6) + data.draw(st.one_of(st.just([]), end))


def pieces_of(tokenizer: Tokenizer, ids: Sequence[int], **options) -> list[str]:
    detokenizer = Detokenizer(tokenizer, **options)
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


def ids_of(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    ids = [tokenizer._backend.token_to_id(piece) for piece in pieces]
    assert None not in ids
    return ids
