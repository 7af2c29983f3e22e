"""A request over HTTP: its times, and each way in which it fails, on a server that does as it is told."""

import asyncio
import socket

import pytest

from jinfer.bench.serve.answers import Answer, AnswerError
from jinfer.bench.serve.client import open_client
from jinfer.errors import ConfigError
from tests.bench.serve.mock_server import (
    DONE,
    MockServer,
    Reply,
    delta_chunk,
    event,
    reply,
    run_virtually,
    running,
    text_chunk,
    usage_chunk,
)

PATH, BODY = "/v1/completions", b'{"prompt": [1, 2, 3], "max_tokens": 4}'
JSON = {"Content-Type": "application/json"}
WORD = (0, text_chunk(" a"))


def ask(
    answer_of, *, timeout_s: float = 60.0, body: bytes = BODY
) -> tuple[Answer, AnswerError | None, float]:
    """The answer of a server, the error, and when the request was sent."""

    async def run():
        async with running(MockServer(answer_of)) as url, open_client(url, timeout_s, {}) as client:
            answer, error, sent_s = Answer(), None, asyncio.get_running_loop().time()
            try:
                await client.ask(PATH, body, answer)
            except AnswerError as caught:
                error = caught
            return answer, error, sent_s

    return run_virtually(run())


def test_chunks_have_the_time_at_which_they_come():
    answer, error, sent_s = ask(lambda body: reply(body, first_s=0.25, gap_s=0.05))
    assert error is None
    times = [time_s - sent_s for time_s in answer.chunk_times_s]
    assert times == pytest.approx([0.25, 0.3, 0.35, 0.4])
    assert answer.ended_s - sent_s == pytest.approx(0.4)
    assert answer.text == " 0 1 2 3"
    assert (answer.count("prompt_tokens"), answer.count("completion_tokens")) == (3, 4)


def test_a_token_within_a_character_has_a_time_as_well():
    """Its text is empty, and neither what begins an answer nor what ends it is a token."""
    pieces = [
        delta_chunk({"role": "assistant", "content": ""}),
        delta_chunk({"content": ""}),
        delta_chunk({}),
        delta_chunk({"content": "\u20ac"}),
        text_chunk(""),
        text_chunk("", "length"),
    ]
    answer, error, sent_s = ask(lambda body: Reply((*((0.1, piece) for piece in pieces), (0, DONE))))
    assert error is None
    assert [time_s - sent_s for time_s in answer.chunk_times_s] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert answer.text == "\u20ac"


def test_an_event_may_be_cut_anywhere():
    whole = text_chunk(" é") + text_chunk("!", "stop") + usage_chunk(1, 2, num_cached=1) + DONE
    for place in range(1, len(whole), 37):
        pieces = ((0, whole[:place]), (0.5, whole[place:]))
        answer, error, _ = ask(lambda body, pieces=pieces: Reply(pieces))
        assert error is None
        assert (answer.text, answer.finish_reason, answer.num_cached_tokens) == (" é!", "stop", 1)


FAILURES = {
    "http 503": (
        Reply(
            ((0, b'{"error": {"message": "the queue is full"}}'),),
            "503 Service Unavailable",
            {**JSON, "Retry-After": "7"},
        ),
        "the queue is full (Retry-After: 7)",
    ),
    "http 500": (Reply(((0, b"<p>oops</p>"),), "500 Internal Server Error", {}), "<p>oops</p>"),
    "http 307": (Reply((), "307 Temporary Redirect", {"Location": "/elsewhere"}), "b''"),
    "no stream": (Reply(((0, b"{}"),), headers=JSON), "application/json"),
    "cut": (Reply((WORD, WORD), is_whole=False), ""),
    "malformed chunk": (Reply((WORD, (0, event(b'{"choices": [')))), '{"choices": ['),
    "error in the stream": (
        Reply((WORD, (0, event({"error": {"message": "out of pages"}})))),
        "out of pages",
    ),
    "no finish_reason": (Reply((WORD, (0, DONE))), "no chunk says why"),
    "finish_reason abort": (Reply((WORD, (0, text_chunk("", "abort") + DONE))), ""),
    "timeout": (Reply((WORD, (90.0, WORD[1]))), "within 60 s"),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_each_failure_has_its_reason(reason):
    answer_of, message = FAILURES[reason]
    answer, error, _ = ask(lambda body: answer_of)
    assert error is not None
    assert error.reason == reason
    assert message in error.message
    assert len(answer.chunk_times_s) == sum(piece == WORD for piece in answer_of.pieces), "what came is kept"


def test_a_stream_that_ends_in_order_without_done_is_cut():
    _, error, _ = ask(lambda body: Reply((WORD, WORD)))
    assert (error.reason, error.message) == ("cut", "the stream ended after 2 chunks without [DONE]")


@pytest.mark.parametrize(
    "chunk", [b"7", b"[]", b'{"choices": 7}', b'{"choices": [7]}', b'{"choices": [{"delta": 7}]}']
)
def test_json_that_is_no_chunk_is_malformed(chunk):
    _, error, _ = ask(lambda body: Reply(((0, event(chunk)), (0, DONE))))
    assert error.reason == "malformed chunk"


def test_nobody_listens():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen

        async def run():
            async with open_client(f"http://127.0.0.1:{bound.getsockname()[1]}", 5.0, {}) as client:
                await client.ask(PATH, BODY, Answer())

        with pytest.raises(AnswerError) as caught:
            asyncio.run(run())
        assert caught.value.reason == "connection refused"


def test_a_server_without_models_is_a_config_error():
    async def run():
        server = MockServer()
        server._about = lambda path: Reply(((0, b'{"data": []}'),), headers=JSON)
        async with running(server) as url, open_client(url, 5.0, {}) as client:
            assert await client.version() is None
            await client.first_model()

    with pytest.raises(ConfigError, match="lists no model; name the --model"):
        run_virtually(run())
