"""A step plan as arrays: the examples of the docstring, and every plan of a scheduler read back from its
batch."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jinfer.batching.batch import Batch, layout_of, make_batch, padding_batch
from jinfer.batching.buckets import Buckets, StepShape
from jinfer.batching.mixed_batch import TOKEN_ON_DEVICE
from jinfer.batching.sampling_state import (
    NO_BLOCKED_ID,
    PROMPT_LENGTH,
    SAMPLING_SIZE,
    packed_sampling,
    unpack_sampling,
)
from jinfer.config import EngineLimits
from jinfer.requests.new_request import SEED_STEP
from jinfer.requests.sampling_params import MAX_STOP_TOKEN_IDS
from jinfer.scheduling.page_pool import NULL_PAGE
from jinfer.scheduling.step_plan import StepPlan
from tests.batching.plans import chunk, decode_rows, limits, new_sequence, plan
from tests.scheduling.fake_device import FakeEngine, rows_of


def fields_of(step: StepPlan, engine_limits: EngineLimits) -> dict[str, np.ndarray]:
    return unpacked(
        make_batch(step, buckets=Buckets.for_limits(engine_limits), limits=engine_limits), engine_limits
    )


def unpacked(batch: Batch, engine_limits: EngineLimits) -> dict[str, np.ndarray]:
    """As `unpack`, in NumPy."""
    fields, begin = {}, 0
    for name, shape in layout_of(batch.shape, engine_limits).items():
        end = begin + math.prod(shape)
        fields[name] = batch.packed[begin:end].reshape(shape)
        begin = end
    assert begin == batch.packed.size
    return fields


def test_the_decode_batch_of_the_docstring():
    rows = decode_rows((0, 5), (2, 8, 17), (5, 2))
    fields = {name: field.tolist() for name, field in fields_of(plan(rows), limits()).items()}
    assert fields == {"row_ids": [0, 2, 5, 8], "new_page_ids": [0, 17, 0, 0]}


def test_the_mixed_batch_of_the_docstring():
    joining = chunk(4, 0, [45, 12, 9], new_pages=[3], is_last_chunk=False, temperature=0.5)
    step = plan(decode_rows((1, 8, 7)), joining)
    sizes = limits(max_num_seqs=6, max_num_batched_tokens=6)
    fields = {name: field.tolist() for name, field in fields_of(step, sizes).items()}
    sampling = fields.pop("sampling")
    assert fields == {
        "row_ids": [1, 4, 6, 6, 6, 6],
        "num_decode_rows": [1],
        "token_ids": [TOKEN_ON_DEVICE, 45, 12, 9, 0, 0],
        "query_starts": [0, 1, 4, 4, 4, 4, 4],
        "start_positions": [8, 0, 0, 0, 0, 0],
        "is_sampled": [1, 0, 0, 0, 0, 0],
        "page_rows": [1, 4] + [6] * 12,
        "page_entries": [2] + [0] * 13,
        "page_ids": [7, 3] + [NULL_PAGE] * 12,
    }
    assert sampling[1] == packed_sampling(joining.sequence).tolist()
    assert sampling[2:] == [[0] * SAMPLING_SIZE] * 4


def read_back(fields: dict[str, np.ndarray]) -> list[tuple]:
    """(row, start, tokens, [(entry, page id)], samples) of each row; (row, [page id]) in a decode batch."""
    if "start_positions" not in fields:
        pages = zip(fields["row_ids"].tolist(), fields["new_page_ids"].tolist(), strict=True)
        return [(row, [page_id] if page_id != NULL_PAGE else []) for row, page_id in pages]
    starts, rows = fields["query_starts"].tolist(), []
    for i, row in enumerate(fields["row_ids"].tolist()):
        new = [
            (entry, page_id)
            for page_row, entry, page_id in zip(
                *(fields[name].tolist() for name in ("page_rows", "page_entries", "page_ids")), strict=True
            )
            if page_row == row and page_id != NULL_PAGE
        ]
        tokens = fields["token_ids"].tolist()[starts[i] : starts[i + 1]]
        rows.append((row, int(fields["start_positions"][i]), tokens, new, int(fields["is_sampled"][i])))
    return rows


def as_read(step: StepPlan, page_size: int) -> list[tuple]:
    """What `read_back` must give for the rows of a plan."""
    rows = rows_of(step, page_size)
    if step.is_decode:
        return [(row.row, row.new_page_ids) for row in rows]
    return [
        (
            row.row,
            row.start,
            [TOKEN_ON_DEVICE] if row.token_ids is None else row.token_ids,
            [(row.first_new_page + i, page_id) for i, page_id in enumerate(row.new_page_ids)],
            int(row.samples),
        )
        for row in rows
    ]


@given(
    page_size=st.sampled_from([1, 2, 4, 16]),
    max_num_seqs=st.integers(1, 6),
    more_tokens=st.integers(0, 20),
    requests=st.lists(
        st.tuples(st.integers(1, 20), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=8
    ),
)
@settings(max_examples=60, deadline=None, print_blob=True)
def test_every_plan_can_be_read_from_its_batch(page_size, max_num_seqs, more_tokens, requests):
    sizes = limits(
        page_size=page_size,
        num_pages=30,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_seqs + more_tokens,
        max_model_len=24,
    )
    engine = FakeEngine(sizes)
    for prompt_length, max_tokens, num_steps in requests:
        engine.add(prompt_length, max_tokens)
        for _ in range(num_steps):
            check_batch(engine.step(), sizes)
    while engine.live:
        check_batch(engine.step(), sizes)


def check_batch(step: StepPlan | None, sizes: EngineLimits) -> None:
    if step is None:
        return
    fields = fields_of(step, sizes)
    rows = read_back(fields)
    assert rows[: step.num_rows] == as_read(step, sizes.page_size)
    null_row = sizes.max_num_seqs
    for padding in rows[step.num_rows :]:
        assert padding in ((null_row, []), (null_row, 0, [], [], 0))
    if not step.is_decode:
        num_decode_rows = int(fields["num_decode_rows"][0])
        is_decode_row = [tokens == [TOKEN_ON_DEVICE] for _, _, tokens, _, _ in rows]
        assert is_decode_row == [True] * num_decode_rows + [False] * (len(rows) - num_decode_rows)


@st.composite
def largest_plans(draw) -> tuple[StepPlan, EngineLimits]:
    """As many rows as a step may have, which begin where they need the most pages, and together have all its
    tokens."""
    page_size, num_rows = draw(st.sampled_from([1, 2, 3, 16, 64, 256])), draw(st.integers(1, 12))
    length, num_copied = draw(st.sampled_from([2, page_size + 2])), draw(st.sampled_from([0, page_size - 1]))
    lengths = draw(
        st.just([length] * num_rows) | st.lists(st.integers(1, 9), min_size=num_rows, max_size=num_rows)
    )
    num_decode_rows = draw(st.just(0) | st.integers(0, num_rows - 1))
    sizes = limits(
        page_size=page_size,
        max_num_seqs=num_rows,
        max_num_batched_tokens=num_decode_rows + sum(lengths[num_decode_rows:]),
        max_model_len=10 * page_size + 20,
    )
    decoding = decode_rows(*((row, page_size, 1 + row) for row in range(num_decode_rows)))
    chunks, page_ids = [], iter(range(100, 10_000))
    for row, length in enumerate(lengths[num_decode_rows:], num_decode_rows):
        num_shared = draw(st.integers(0, 2))
        new_pages = [next(page_ids) for _ in range(sizes.pages_for(num_copied + length))]
        shared = [50 + i for i in range(num_shared)]
        joining = chunk(
            row,
            num_shared * page_size + num_copied,
            [1] * length,
            new_pages=new_pages,
            shared_pages=shared,
            copied_page=40 if num_copied else None,
        )
        chunks.append(dataclasses.replace(joining, first_new_page=num_shared))
    return plan(decoding, *chunks), sizes


@given(largest_plans())
@settings(max_examples=200, deadline=None, print_blob=True)
def test_the_largest_plans_that_there_may_be_fit_their_batch(largest):
    check_batch(*largest)


@pytest.mark.parametrize("shape", [StepShape(4), StepShape(4, 16)], ids=str)
def test_a_batch_of_padding_touches_the_null_row_and_the_null_page_only(shape):
    batch = padding_batch(shape, limits())
    assert batch.shape == shape
    assert all(row in ((8, []), (8, 0, [], [], 0)) for row in read_back(unpacked(batch, limits())))


def test_a_decode_batch_is_small():
    """Two integers a row cross to the device."""
    assert layout_of(StepShape(8), limits()) == {"row_ids": (8,), "new_page_ids": (8,)}


@given(
    temperature=st.floats(0, 2, width=32),
    top_p=st.floats(0, 1, width=32, exclude_min=True),
    min_p=st.floats(0, 1, width=32),
    top_k=st.integers(-1, 2**31 - 1),
    seed=st.integers(0, 2**64 - 1),
    min_tokens=st.integers(0, 50),
    logprobs=st.none() | st.integers(0, 20),
)
@settings(max_examples=150, deadline=None, print_blob=True)
def test_packed_sampling_is_read_as_it_was_written(min_tokens, logprobs, **params):
    sequence = new_sequence(prompt_length=3, min_tokens=min_tokens, logprobs=logprobs, **params)
    rows = unpack_sampling(jnp.asarray(packed_sampling(sequence)[None]))
    for name in ("temperature", "top_p", "min_p", "top_k"):
        assert getattr(rows, name)[0] == params[name], name
    low, high = rows.seed[0].tolist()
    assert low + (high << 32) == params["seed"]
    assert rows.min_length[0] == 3 + min_tokens
    assert bool(rows.wants_logprobs[0]) == (logprobs is not None)


def test_sequences_of_a_request_have_seeds_of_their_own():
    request = new_sequence(n=3, temperature=1.0, seed=2**64 - 1).request
    packed = np.stack([packed_sampling(sequence) for sequence in request.sequences])
    seeds = [low + (high << 32) for low, high in unpack_sampling(jnp.asarray(packed)).seed.tolist()]
    assert seeds == [(2**64 - 1 + i * SEED_STEP) % 2**64 for i in range(3)]


def test_stop_ids_are_blocked_only_where_min_tokens_asks():
    eos, stops = [2, 900], [5, 7]
    blocked = unpack_sampling(
        jnp.asarray(
            np.stack(
                [
                    packed_sampling(new_sequence(eos_token_ids=eos, stop_token_ids=stops, min_tokens=3)),
                    packed_sampling(
                        new_sequence(eos_token_ids=eos, stop_token_ids=stops, min_tokens=3, ignore_eos=True)
                    ),
                    packed_sampling(new_sequence(eos_token_ids=eos, stop_token_ids=stops)),
                ]
            )
        )
    ).blocked_ids.tolist()
    assert [sorted(set(row) - {NO_BLOCKED_ID}) for row in blocked] == [[2, 5, 7, 900], [5, 7], []]


def test_as_many_stop_ids_as_are_allowed_can_be_blocked():
    packed = packed_sampling(new_sequence(stop_token_ids=list(range(MAX_STOP_TOKEN_IDS)), min_tokens=1))
    assert unpack_sampling(jnp.asarray(packed[None])).blocked_ids[0].tolist() == list(
        range(MAX_STOP_TOKEN_IDS)
    )


def test_the_length_of_the_prompt_is_the_last_word():
    sequence = new_sequence(5, min_tokens=3)
    sequence.token_ids.append(7)
    assert packed_sampling(sequence)[PROMPT_LENGTH] == 5


def test_words_of_zeros_are_a_greedy_row_that_wants_nothing():
    """Padding: no draw, no log probabilities, and at position 0 no id is blocked."""
    rows = unpack_sampling(jnp.zeros((1, SAMPLING_SIZE), jnp.int32))
    assert (rows.temperature[0], rows.wants_logprobs[0], rows.min_length[0]) == (0, 0, 0)
