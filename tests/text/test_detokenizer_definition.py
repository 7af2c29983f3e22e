"""Detokenizer against its definition, for ids, contexts and stop strings of all kinds."""

from hypothesis import assume, given
from hypothesis import strategies as st

from jinfer.text.detokenizer import Detokenizer
from tests.text.detokenizing import completion, decode, draw_context, draw_ids, exact, run, stopped_text


@exact
@given(data=st.data(), skip=st.booleans())
def test_pieces_join_to_the_decoded_text(any_tokenizer, data, skip):
    ids = draw_ids(data, any_tokenizer)
    detokenizer = Detokenizer(any_tokenizer, skip_special_tokens=skip)
    assert run(detokenizer, ids) == decode(any_tokenizer, ids, skip)


@exact
@given(data=st.data(), skip=st.booleans())
def test_the_text_is_what_the_tokens_add_to_the_context(any_tokenizer, data, skip):
    context, ids = draw_context(data, any_tokenizer), draw_ids(data, any_tokenizer, max_size=8)
    right = completion(any_tokenizer, context, ids, skip)
    assert run(Detokenizer(any_tokenizer, skip_special_tokens=skip, context=context), ids) == right
    at_once = Detokenizer(any_tokenizer, skip_special_tokens=skip, context=context)
    assert at_once.finish(ids) == right


@exact
@given(data=st.data(), skip=st.booleans())
def test_the_last_tokens_may_be_added_at_once(any_tokenizer, data, skip):
    ids = draw_ids(data, any_tokenizer)
    num_single = data.draw(st.integers(0, len(ids)))
    detokenizer = Detokenizer(any_tokenizer, skip_special_tokens=skip)
    pieces = [detokenizer.add(token_id) for token_id in ids[:num_single]]
    assert detokenizer.num_tokens == num_single
    pieces.append(detokenizer.finish(ids[num_single:]))
    assert detokenizer.text == "".join(pieces) == decode(any_tokenizer, ids, skip)
    assert detokenizer.num_tokens == len(ids)


@exact
@given(data=st.data(), skip=st.booleans(), include=st.booleans(), min_tokens=st.integers(0, 6))
def test_stop_strings_cut_where_the_definition_says(any_tokenizer, data, skip, include, min_tokens):
    context, ids = draw_context(data, any_tokenizer), draw_ids(data, any_tokenizer, max_size=12)
    text = completion(any_tokenizer, context, ids, skip)
    slices = st.tuples(st.integers(0, max(0, len(text) - 1)), st.integers(1, 5)).map(
        lambda s: text[s[0] : sum(s)]
    )
    stop = tuple(
        data.draw(st.lists(st.one_of(slices, st.text("ab €\n�", min_size=1, max_size=3)), max_size=3))
    )
    assume(all(word and any_tokenizer.unwritable_character(word) is None for word in stop))
    assume(not any(special in word for special in any_tokenizer.special_texts for word in stop))
    # Then the definition is loose.
    assume(min_tokens == 0 or not any(word.endswith("\ufffd") for word in stop))
    options = {"context": context, "stop": stop, "min_tokens": min_tokens}
    expected = stopped_text(any_tokenizer, ids, include=include, skip=skip, **options)
    detokenizer = Detokenizer(
        any_tokenizer, include_stop_str_in_output=include, skip_special_tokens=skip, **options
    )
    assert (run(detokenizer, ids), detokenizer.stop_reason) == expected
