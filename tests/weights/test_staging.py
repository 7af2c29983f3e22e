"""The staging buffers: what goes through them arrives, in order, and a buffer waits until its copy was
used."""

import os
import threading
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from jinfer.placement import Placement, default_placement
from jinfer.weights import staging
from jinfer.weights.staging import MAX_READERS, NUM_SPARE_BUFFERS, StagingBuffer, stream

PLACEMENT = default_placement()
DEVICE = PLACEMENT.device
MANY = 3 * (MAX_READERS + NUM_SPARE_BUFFERS)
HAS_PINNED_MEMORY = any(memory.kind == "pinned_host" for memory in DEVICE.addressable_memories())
needs_pinned_memory = pytest.mark.skipif(
    not HAS_PINNED_MEMORY, reason="JAX offers no pinned memory on this device"
)
KINDS = [
    pytest.param(StagingBuffer.pageable, id="pageable"),
    pytest.param(StagingBuffer.pinned, id="pinned", marks=needs_pinned_memory),
]


@pytest.fixture(params=KINDS)
def made(request, monkeypatch) -> list[StagingBuffer]:
    """All buffers of `stream`, which are of one kind or the other."""
    buffers: list[StagingBuffer] = []

    def make(num_bytes: int, placement: Placement) -> StagingBuffer:
        buffers.append(request.param(num_bytes, placement))
        return buffers[-1]

    monkeypatch.setattr(staging, "_new_buffer", lambda placement: make)
    return buffers


@pytest.mark.parametrize("make", KINDS)
def test_what_is_written_is_what_the_device_gets_each_time(make):
    """Also of a size that no allocator rounds to, and after the memory was written before."""
    buffer = make(100_003, PLACEMENT)
    for seed in range(3):
        wanted = np.random.default_rng(seed).integers(0, 256, 100_003, np.uint8)
        buffer.content[:] = wanted
        on_device = buffer.copy_to(PLACEMENT)
        np.testing.assert_array_equal(np.array(on_device), wanted)
        assert on_device.devices() == {DEVICE}
        assert on_device.sharding.memory_kind == DEVICE.default_memory().kind


def test_every_read_arrives_in_its_order_through_few_buffers(made):
    def read(number: int):
        def write(content: np.ndarray) -> None:
            content[:] = number

        return write

    received = [np.unique(x).tolist() for x in stream([read(i) for i in range(MANY)], 50, PLACEMENT)]

    assert received == [[i] for i in range(MANY)]
    assert len(made) <= MAX_READERS + NUM_SPARE_BUFFERS


def test_a_buffer_is_not_written_before_the_next_is_asked_for(made):
    """The bytes of the one that was yielded stay, however far the readers are ahead."""
    filled = []

    def read(content: np.ndarray) -> None:
        filled.append(None)
        content[:] = 1 + content[0]  # how often this buffer was filled

    taken = stream([read] * MANY, 8, PLACEMENT)
    first = next(taken)
    pause, most = threading.Event(), min(MAX_READERS, os.cpu_count() or 1) + NUM_SPARE_BUFFERS
    while len(filled) < most:
        pause.wait(0.01)
    pause.wait(0.05)  # for a reader that would fill one more

    assert len(filled) == len(made) == most < MANY
    assert np.array(first).tolist() == [1] * 8
    del first
    assert len(list(taken)) == MANY - 1


def test_nothing_to_stream_is_nothing(made):
    assert list(stream([], 8, PLACEMENT)) == []
    assert not made


def test_what_a_read_raises_ends_the_stream_and_its_readers(made):
    def fail(content: np.ndarray) -> None:
        raise OSError("the disk is gone")

    good = [lambda content: None] * 3
    with pytest.raises(OSError, match="the disk is gone"):
        list(stream([*good, fail, *good * MANY], 8, PLACEMENT))

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jinfer-reader")]


def test_a_stream_that_is_closed_early_ends_its_readers(made):
    taken = stream([lambda content: None] * MANY, 8, PLACEMENT)
    next(taken)
    taken.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("jinfer-reader")]


def test_a_device_without_pinned_memory_is_served_from_other_and_that_is_said(monkeypatch, caplog):
    def refuse(num_bytes: int, placement: Placement) -> StagingBuffer:
        raise ValueError("no such memory kind")

    monkeypatch.setattr(StagingBuffer, "pinned", refuse)
    device = Mock(spec=jax.Device, platform="gpu", device_kind="a GPU")

    assert staging._new_buffer(Placement(device)) == StagingBuffer.pageable
    assert "a GPU gives no pinned memory (no such memory kind)" in caplog.text


@pytest.mark.gpu
def test_a_gpu_is_served_from_pinned_memory():
    assert staging._new_buffer(PLACEMENT) == StagingBuffer.pinned
