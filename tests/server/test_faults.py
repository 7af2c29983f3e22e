"""Whatever breaks between front and engine ends what it concerns, with the reason, and nothing hangs."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from jinfer import EngineError, FinishReason, OverloadedError, RequestError
from jinfer.server import frames
from jinfer.server.frames import SocketWriter, framed
from jinfer.server.waiting_line import QueueLimits
from jinfer.server.wire import PROTOCOL, EngineSpec, Fatal, Hello, Submit, decode_for_front, encode
from tests.server.fakes import (
    SECONDS,
    SLOW_STEP_S,
    EngineThread,
    FallibleDevice,
    begun,
    connected,
    expected_tokens,
    new_engine,
    new_queue,
    outputs_of,
    run,
    until,
)


@pytest.fixture
def engine() -> Iterator[EngineThread]:
    engine = EngineThread(new_engine(FallibleDevice))
    yield engine
    engine.front.close()
    engine.join()


def test_a_fault_in_a_step_fails_what_ran_and_the_engine_goes_on(engine):
    async def use() -> None:
        client = await connected(engine)
        queue, beside = await begun(client, engine), await begun(client, engine)
        engine.engine.executor.fault = "the device fell over"
        engine.engine.executor.step_s = 0.0
        for failed in (queue, beside):
            with pytest.raises(EngineError, match="the device fell over"):
                await outputs_of(failed)
        again = new_queue(max_tokens=9)
        client.submit(again)
        outputs = await outputs_of(again)
        assert [output.token_id for output in outputs] == expected_tokens(again.requests[0].sequences[0], 9)
        await client.close()

    run(use())
    assert engine.join() == 0


def test_an_engine_that_cannot_begin_anew_ends_with_the_reason(engine):
    async def use() -> None:
        client = await connected(engine)
        queue = await begun(client, engine)
        engine.engine.executor.reset_fault = "nor does it get up"
        engine.engine.executor.fault = "the device fell over"
        with pytest.raises(EngineError, match="the device fell over"):
            await outputs_of(queue)
        assert "nor does it get up" in await client.wait_dead()
        with pytest.raises(EngineError, match="nor does it get up"):
            client.submit(new_queue())
        with pytest.raises(EngineError, match="nor does it get up"):
            await client.heartbeat()
        await client.close()

    run(use())
    assert engine.join() == 1


def test_a_step_that_hangs_does_not_answer(engine):
    async def use() -> None:
        client = await connected(engine)
        queue = new_queue(max_tokens=3)
        engine.engine.executor.num_free_steps = 0
        client.submit(queue)
        await until(lambda: engine.engine.executor.is_held)
        with pytest.raises(EngineError, match=r"not answered for 0\.05 s"):
            await client.heartbeat(timeout_s=0.05)
        engine.engine.executor.release()
        assert 0 < await client.heartbeat(SECONDS) < SECONDS
        await client.close()

    run(use())


def test_a_full_line_refuses_and_says_when_to_come_back(engine):
    async def use() -> None:
        client = await connected(engine, QueueLimits(max_queued_requests=6, max_queued_tokens=100))
        queues = [new_queue([range(10)], max_tokens=2) for _ in range(6)]
        for queue in queues:
            client.submit(queue)
        with pytest.raises(OverloadedError, match=r"6 requests wait .* max_queued_requests=6") as caught:
            client.submit(new_queue())
        assert 0.5 < caught.value.retry_after_s < 100
        with pytest.raises(OverloadedError):
            client.submit(new_queue([(1,)] * 2))
        await asyncio.gather(*map(outputs_of, queues))
        client.submit(new_queue([(1,)] * 8))  # an empty line takes anything
        with pytest.raises(OverloadedError, match=r"8 requests wait"):
            client.submit(new_queue())
        await client.close()

    run(use())


def test_a_line_of_long_prompts_is_full_too(engine):
    async def use() -> None:
        client = await connected(engine, QueueLimits(max_queued_tokens=100))
        client.submit(new_queue([range(60)]))
        client.submit(new_queue([range(40)]))
        with pytest.raises(OverloadedError, match=r"100 tokens wait .* max_queued_tokens=100"):
            client.submit(new_queue([(1,)]))
        await client.close()

    run(use())


def test_a_taker_who_is_too_slow_loses_the_request_and_no_other(engine):
    async def use() -> None:
        client = await connected(engine)
        client._submissions._max_untaken_outputs = 10
        engine.engine.executor.num_free_steps = 20
        quick, slow = new_queue([(8, 9)], max_tokens=4), new_queue(max_tokens=60)
        client.submit(quick)
        client.submit(slow)
        assert len(await outputs_of(quick)) == 4
        await until(lambda: slow.is_over)
        with pytest.raises(EngineError, match="too slow"):
            await outputs_of(slow)
        assert slow.requests[0].sequences[0].num_output_tokens == 11
        engine.engine.executor.step_s = SLOW_STEP_S
        engine.engine.executor.release()
        await client.heartbeat(SECONDS)
        assert client.stats().num_generated_tokens < 4 + 60, "the engine was not told"
        await client.close()

    run(use())


def test_a_queue_that_is_too_large_for_a_message_is_refused(engine, monkeypatch):
    async def use() -> None:
        client = await connected(engine)
        with monkeypatch.context() as patch:
            patch.setattr(frames, "MAX_FRAME_BYTES", 400)
            with pytest.raises(RequestError, match="at most 400 may be sent"):
                client.submit(new_queue([range(60)] * 10))
        assert client.num_queued_requests == 0
        queue = new_queue(max_tokens=2)
        client.submit(queue)
        assert len(await outputs_of(queue)) == 2
        await client.close()

    run(use())


def test_closing_lets_what_runs_end_and_takes_nothing_new(engine):
    async def use() -> None:
        client = await connected(engine)
        queue = new_queue(max_tokens=50)
        client.submit(queue)
        closing = asyncio.create_task(client.close(grace_s=20))
        outputs = await outputs_of(queue)
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        assert len(outputs) == 50
        with pytest.raises(EngineError, match="shutting down"):
            client.submit(new_queue())
        await closing

    run(use())
    assert engine.join() == 0


def test_closing_ends_what_does_not_end_in_time(engine):
    async def use() -> None:
        client = await connected(engine)
        queue = await begun(client, engine)
        await client.close(grace_s=0.2)
        with pytest.raises(EngineError, match="shutting down"):
            await outputs_of(queue)

    run(use())
    assert engine.join() == 0
    assert engine.num_given_back


def greeting() -> bytes:
    return framed(encode(Hello(PROTOCOL))) + framed(encode(EngineSpec(None, None, {})))


GARBAGE = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no msgpack": greeting() + framed(b"\xc1"),
    "another tag": greeting() + framed(encode(Hello(PROTOCOL)).replace(b"\x00", b"\x63")),
    "in the middle": greeting() + framed(encode(Hello(PROTOCOL))),
    "a field of another type": greeting() + framed(b"\x94\x02\xa1a\x90\xc0"),
    "another version": framed(encode(Hello(PROTOCOL + 1))) + greeting(),
    "half a frame": greeting() + framed(encode(Submit(0, (), (), None)))[:-1],
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_message_of_the_front_ends_the_engine(engine, data):
    engine.front.setblocking(True)
    engine.front.sendall(data)
    engine.front.shutdown(socket.SHUT_WR)
    assert engine.join() is not None
    assert engine.num_given_back or engine.exit_status == 1


def test_a_front_of_another_version_is_told_so(engine):
    engine.front.setblocking(True)
    start = framed(encode(EngineSpec(None, None, {})))
    engine.front.sendall(framed(encode(Hello(PROTOCOL + 1))) + start)
    assert engine.join() == 1
    told = [decode_for_front(frame) for frame in frames.FrameReader().feed(engine.front.recv(10_000))]
    assert isinstance(told[-1], Fatal)
    assert "different protocols" in told[-1].reason


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\n\r\n", framed(b"\xc1"), framed(encode(Hello(99)))])
def test_what_is_no_message_of_the_engine_fails_its_start(data):
    async def use() -> None:
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        theirs.sendall(data)
        stand_in = type("StandIn", (), {"front": ours})()
        with pytest.raises(EngineError, match=r"announced|cannot be read|different protocols"):
            await connected(stand_in)
        theirs.close()

    run(use())


def test_the_front_leaves_and_the_engine_ends(engine):
    async def use() -> None:
        client = await connected(engine)
        queue = await begun(client, engine)
        client._connection.abort()
        assert "gone" in await client.wait_dead()
        with pytest.raises(EngineError, match="gone"):
            await outputs_of(queue)

    run(use())
    assert engine.join() in (0, 1)  # it may have noticed as it wrote, or as it read
    assert engine.num_given_back


def send_until_refused(writer: SocketWriter, message: bytes) -> None:
    for _ in range(10_000):
        writer.send(message)


def test_a_reader_who_does_not_read_counts_as_gone():
    ours, theirs = socket.socketpair()
    writer = SocketWriter(ours, max_silence_s=0.001)
    with pytest.raises(EngineError, match="has not read for"):
        send_until_refused(writer, bytes(2**12))
    theirs.close()
    ours.close()


def test_no_more_is_kept_for_a_reader_than_the_bound():
    ours, theirs = socket.socketpair()
    writer = SocketWriter(ours, max_unread_bytes=2**20)
    with pytest.raises(EngineError, match="bytes wait for it"):
        send_until_refused(writer, bytes(2**16))
    theirs.close()
    ours.close()


def test_what_the_socket_does_not_take_at_once_arrives_whole_and_in_order():
    ours, theirs = socket.socketpair()
    writer, reader = SocketWriter(ours), frames.FrameReader()
    messages = [number.to_bytes(2, "big") * (200_000 + number) for number in range(40)]
    received: list[bytes] = []
    for message in messages:
        writer.send(message)
    while len(received) < len(messages):
        received += reader.feed(theirs.recv(100_003))
        writer.flush()
    assert received == messages
    theirs.close()
    ours.close()
