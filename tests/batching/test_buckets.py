"""The compiled shapes: few, and none much larger than what it holds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.batching.batch import smallest_shape
from jinfer.batching.buckets import Buckets, StepShape
from tests.batching.plans import chunk, decode_rows, limits, plan

MAX_ROWS = 512


def decode_plan(num_rows: int):
    return plan(decode_rows(*((row, 1) for row in range(num_rows))))


def test_the_buckets_of_the_docstring():
    buckets = Buckets.for_limits(limits(max_num_seqs=32, max_num_batched_tokens=1024))
    assert [shape.rows for shape in buckets.decode] == [1, 2, 4, 8, 10, 13, 16, 20, 26, 32]
    assert [(shape.rows, shape.tokens) for shape in buckets.mixed] == [
        (16, 16),
        (32, 64),
        (32, 256),
        (32, 384),
        (32, 512),
        (32, 768),
        (16, 1024),
        (32, 1024),
    ]


@pytest.mark.parametrize("max_num_seqs", [9, 100, 256, MAX_ROWS])
def test_less_than_a_quarter_of_a_decode_step_is_padding(max_num_seqs):
    row_counts = [shape.rows for shape in Buckets.for_limits(limits(max_num_seqs=max_num_seqs)).decode]
    for num_rows in range(9, max_num_seqs + 1):
        bucket = min(rows for rows in row_counts if rows >= num_rows)
        assert (bucket - num_rows) / bucket < 0.25, (num_rows, bucket)


@pytest.mark.parametrize("max_num_batched_tokens", [1000, 4096, 8192])
def test_at_most_a_third_of_a_large_mixed_step_is_padding(max_num_batched_tokens):
    buckets = Buckets.for_limits(limits(max_num_batched_tokens=max_num_batched_tokens))
    token_counts = [shape.tokens for shape in buckets.mixed]
    for num_tokens in range(257, max_num_batched_tokens + 1):
        bucket = min(tokens for tokens in token_counts if tokens >= num_tokens)
        assert (bucket - num_tokens) / bucket <= 1 / 3, (num_tokens, bucket)


def test_there_are_few_shapes():
    shapes = Buckets.for_limits(limits(max_num_seqs=512, max_num_batched_tokens=8192))
    assert (len(shapes.decode), len(shapes.mixed)) == (22, 20)


@given(max_num_seqs=st.integers(1, MAX_ROWS), tokens=st.integers(0, 5000))
@settings(max_examples=100, deadline=None, print_blob=True)
def test_shapes_ascend_to_the_limits(max_num_seqs, tokens):
    max_num_batched_tokens = max_num_seqs + tokens
    buckets = Buckets.for_limits(
        limits(max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)
    )
    row_counts = [shape.rows for shape in buckets.decode]
    token_counts = sorted({shape.tokens or 0 for shape in buckets.mixed})
    assert row_counts == sorted(set(row_counts))
    assert list(buckets.mixed) == sorted(set(buckets.mixed), key=lambda shape: (shape.tokens, shape.rows))
    assert (row_counts[-1], token_counts[-1]) == (max_num_seqs, max_num_batched_tokens)
    assert all(shape.is_decode for shape in buckets.decode)
    max_rows = {shape.tokens: shape.rows for shape in buckets.mixed}
    assert max_rows == {tokens: min(tokens, max_num_seqs) for tokens in token_counts}
    assert buckets.all == buckets.decode + buckets.mixed


@pytest.mark.parametrize("max_num_seqs", [1, 2, 3, 4, 8, 9, 12, 33])
def test_a_decode_plan_gets_the_smallest_shape_that_holds_it(max_num_seqs):
    buckets = Buckets.for_limits(limits(max_num_seqs=max_num_seqs))
    for num_rows in range(1, max_num_seqs + 1):
        shape = smallest_shape(decode_plan(num_rows), buckets)
        assert shape == min(shape for shape in buckets.decode if shape.rows >= num_rows)


@given(max_num_seqs=st.integers(1, 20), data=st.data())
@settings(max_examples=60, deadline=None, print_blob=True)
def test_a_mixed_plan_gets_the_smallest_shape_that_holds_it(max_num_seqs, data):
    budget = data.draw(st.integers(max_num_seqs, 600), label="max_num_batched_tokens")
    num_rows = data.draw(st.integers(1, max_num_seqs), label="rows")
    num_tokens = data.draw(st.integers(num_rows, budget), label="tokens")
    decode = decode_rows(*((row, 1) for row in range(num_rows - 1)))
    chosen = plan(decode, chunk(num_rows - 1, 0, range(num_tokens - len(decode))))
    buckets = Buckets.for_limits(limits(max_num_seqs=max_num_seqs, max_num_batched_tokens=budget))
    shape = smallest_shape(chosen, buckets)
    assert shape in buckets.mixed
    assert shape.tokens == min(s.tokens for s in buckets.mixed if s.tokens >= num_tokens)
    assert shape.rows >= num_rows


def test_shapes_sort_by_rows_and_know_their_kind():
    assert StepShape(2) < StepShape(4)
    assert StepShape(4).is_decode
    assert not StepShape(4, 16).is_decode
