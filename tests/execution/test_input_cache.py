"""Inputs that are the same from step to step are sent once."""

import jax
import numpy as np

from jinfer import SamplingParams
from jinfer.batching.buckets import StepShape
from jinfer.execution.input_cache import InputCache
from jinfer.execution.split_steps import SplitSteps
from jinfer.placement import Placement
from tests.tiny_model import tiny_llm

DECODE = StepShape(2)


def input_cache() -> InputCache:
    return InputCache(Placement(jax.devices("cpu")[0]))


def test_an_input_is_kept_on_the_device_from_the_second_time_on():
    send = input_cache()
    first, second, third = (send(DECODE, np.array([1, 2], np.int32)) for _ in range(3))
    assert isinstance(first, np.ndarray)
    assert isinstance(second, jax.Array)
    assert third is second
    assert second.tolist() == [1, 2]


def test_a_new_page_does_not_replace_what_is_kept():
    send = input_cache()
    kept = [send(DECODE, np.array([1, 0], np.int32)) for _ in range(2)][-1]
    other = send(DECODE, np.array([1, 7], np.int32))
    assert other.tolist() == [1, 7]
    assert send(DECODE, np.array([1, 0], np.int32)) is kept


def test_another_input_twice_replaces_it():
    send = input_cache()
    old = [send(DECODE, np.array([1, 0], np.int32)) for _ in range(2)][-1]
    new = [send(DECODE, np.array([3, 0], np.int32)) for _ in range(3)][-1]
    assert new.tolist() == [3, 0]
    assert old.tolist() == [1, 0]
    assert send(DECODE, np.array([3, 0], np.int32)) is new


def test_shapes_are_kept_apart():
    send = input_cache()
    packed = np.array([1, 0], np.int32)
    first, second = (send(DECODE, packed), send(StepShape(1), packed))
    assert first is packed
    assert second is packed


def test_steps_in_two_halves_are_sent_once_as_well(monkeypatch):
    sent = []
    begin = SplitSteps.begin

    def recorded(self, *arguments, packed, **others):
        sent.append(packed)
        return begin(self, *arguments, packed=packed, **others)

    monkeypatch.setattr(SplitSteps, "begin", recorded)
    with tiny_llm(max_num_seqs=2, page_size=16) as llm:
        sent.clear()  # what warms up
        params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, presence_penalty=0.1)
        llm.generate([[1, 2, 3]], params)
    assert isinstance(sent[-1], jax.Array)
    assert sent[-1] is sent[-2]
