"""A soak of a tiny model finds nothing, and finds what a server does wrong."""

import asyncio
import contextlib
import dataclasses
import json

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.server_process import ServerError, ServerProcess, running_server
from benchmarks.soak import __main__ as soak
from benchmarks.soak.answers import FaultyAnswerError, check, joined
from benchmarks.soak.checks import end_faults, memory_faults, memory_figures
from benchmarks.soak.clients import Clients
from benchmarks.soak.endpoints import of_message, of_message_events, of_response, of_response_events
from benchmarks.soak.traffic import COMPLETIONS, Exchange, Traffic
from benchmarks.soak.watch import Sample

BODY = {"prompt": "x", "max_tokens": 4}
IDLE = Sample(1.0, {"front": 100.0, "engine": 900.0, "others": 0.0}, 0, 0, 0.0, 9, 0, {200: 9, 400: 2})


def answer(text="a b", end="length", *, tokens=2, **choice):
    usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
    return {"choices": [{"text": text, "finish_reason": end, **choice}], "usage": usage}


def test_mixed_traffic_on_a_tiny_model_has_no_fault(server, monkeypatch, capsys):
    monkeypatch.setattr(soak, "running_server", lambda options: contextlib.nullcontext(server))
    monkeypatch.setattr(ServerProcess, "end", lambda server: 0)  # others have it after this test
    status = soak.main(["--minutes", "0.03", "--sample-s", "0.5"])
    out, err = capsys.readouterr()
    assert status == 0, err
    line = json.loads(out)
    assert (line["id"], line["value"], line["percent_of_limit"]) == ("serve-soak", 0, 100)
    assert line["command"] == "python -m benchmarks.soak --minutes 0.03 --sample-s 0.5"
    details = line["details"]
    assert details["num_clients"] == 4
    assert len(details["num_requests_by_kind"]) == 16, "each kind was sent"
    assert details["num_generated_tokens"] >= details["num_output_tokens"] > 100
    assert details["num_golden_changes"] == 0
    assert details["resident_mib"]["end"]["front"] > 10
    assert details["resident_mib"]["end"]["engine"] > 10
    assert "requests, 0 faults" in err


def test_the_same_seed_sends_the_same_requests():
    first, again = (Traffic("0 1", max_model_len=64, has_chat=True) for _ in range(2))
    sent = [first.next() for _ in range(200)]
    assert sent == [again.next() for _ in range(200)]
    assert len({exchange.kind for exchange in sent}) == 16


@pytest.mark.parametrize(
    ("body", "given", "fault"),
    [
        (BODY, answer(end=None), "finish_reason None"),
        (BODY, answer(tokens=5), "5 tokens, and max_tokens=4"),
        ({**BODY, "n": 2}, answer(), "1 choices"),
        ({**BODY, "stop": ["b"]}, answer(end="stop"), "the stop string 'b'"),
        ({**BODY, "structured_outputs": {"regex": "[0-9]"}}, answer(end="stop"), "does not fit"),
        ({**BODY, "structured_outputs": {"json": {}}}, answer("{", end="stop"), "does not fit"),
        ({**BODY, "logprobs": 0}, answer(logprobs={"token_logprobs": [-1.0]}), "1 log probabilities of 2"),
        ({**BODY, "logprobs": 0}, answer(logprobs={"token_logprobs": [-1.0, None]}), "1 tokens without"),
        (BODY, {"choices": answer()["choices"], "usage": None}, "usage None"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_a_fault(body, given, fault):
    check(BODY, answer())
    with pytest.raises(FaultyAnswerError, match=fault):
        check(body, given)


def test_a_stream_is_the_answer_that_its_chunks_make():
    chunks = [
        {"choices": [{"index": 0, "text": "a ", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]},
        {"choices": [], "usage": answer()["usage"]},
    ]
    events = [*(json.dumps(chunk).encode() for chunk in chunks), b"[DONE]"]
    whole = joined(events)
    check({**BODY, "structured_outputs": {"choice": ["a b"]}}, whole)
    with pytest.raises(FaultyAnswerError, match=r"after 3 chunks without \[DONE\]"):
        joined(events[:-1])
    with pytest.raises(FaultyAnswerError, match="the stream has an error"):
        joined([b'{"error": {"message": "it fell over"}}', b"[DONE]"])


def test_an_answer_of_another_endpoint_is_checked_as_a_completion():
    usage = {"input_tokens": 1, "output_tokens": 2}
    message = {"content": [{"type": "text", "text": "a b"}], "stop_reason": "max_tokens", "usage": usage}
    output = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "a b"}]}]
    response = {"output": output, "status": "incomplete", "usage": usage}
    assert of_message(message) == of_response(response) == answer()
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 0}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a "}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}},
        {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    lines = [json.dumps(event).encode() for event in events]
    assert of_message_events(lines) == answer()
    with pytest.raises(FaultyAnswerError, match="after 4 events without message_stop"):
        of_message_events(lines[:-1])
    events = [
        {"type": "response.created", "sequence_number": 0},
        {"type": "response.incomplete", "sequence_number": 1, "response": response},
    ]
    lines = [json.dumps(event).encode() for event in events]
    assert of_response_events(lines) == answer()
    with pytest.raises(FaultyAnswerError, match="not in their order"):
        of_response_events(lines[1:])


def test_clients_count_what_a_server_does_wrong():
    answers = iter([answer("a"), answer("a"), answer("b")])

    async def complete(request: web.Request) -> web.Response:
        if (await request.json())["prompt"] == "fail":
            return web.json_response({"error": {}}, status=500)
        return web.json_response(next(answers))

    async def use() -> list[str]:
        app = web.Application()
        app.router.add_post(COMPLETIONS, complete)
        async with TestServer(app) as other, aiohttp.ClientSession(other.make_url("/")) as session:
            clients = Clients(session, texts_must_repeat=True)
            for _ in range(3):
                await clients.send(Exchange("golden", COMPLETIONS, BODY, golden="0"))
            await clients.send(Exchange("plain", COMPLETIONS, {**BODY, "prompt": "fail"}))
            await clients.send(Exchange("invalid", COMPLETIONS, {**BODY, "prompt": "fail"}, status=500))
        assert clients.tally.num_requests == {"golden": 3, "plain": 1, "invalid": 1}
        assert (clients.tally.num_golden_repeats, clients.tally.num_golden_changes) == (2, 1)
        return clients.tally.faults

    changed, failed, silent = asyncio.run(use())
    assert "the texts ['b'], which were ['a']" in changed
    assert "status 500 and not 200" in failed
    assert "an error without a message" in silent


def test_memory_that_grows_is_a_fault():
    def samples(last_mib):
        memory = [300.0] * 5 + [60.0, 100.0, 60.0, 60.0, 60.0] + [last_mib] * 5
        return [dataclasses.replace(IDLE, resident_mib={"front": mib, "engine": 9.0}) for mib in memory]

    figures = memory_figures(samples(102.0))
    assert figures["front"] == {"middle_mib": 100.0, "last_mib": 102.0, "growth_percent": 2.0}
    assert not list(memory_faults(figures))
    (fault,) = memory_faults(memory_figures(samples(104.0)))
    assert "the memory of the front grew by 4.0%" in fault
    assert memory_figures(samples(104.0)[:11]) == {}


@pytest.mark.parametrize(
    ("end", "failures", "status", "fault"),
    [
        (dataclasses.replace(IDLE, num_running=1), (), 0, "1 run, 0 wait"),
        (dataclasses.replace(IDLE, num_waiting=2), (), 0, "0 run, 2 wait"),
        (dataclasses.replace(IDLE, cache_usage=0.015), (), 0, "1.50% of the pages"),
        (dataclasses.replace(IDLE, num_answers={200: 1, 503: 2}), (), 0, "2 answers had the status 503"),
        (IDLE, ["ERROR it fell over"], 0, "log says: ERROR it fell over"),
        (IDLE, (), 1, "ended with status 1"),
    ],
)
def test_what_a_server_leaves_is_a_fault(end, failures, status, fault):
    assert not list(end_faults(IDLE, (), 0))
    (found,) = end_faults(end, failures, status)
    assert fault in found


def test_a_server_that_does_not_start_says_why():
    options = {"dtype": "int3"}
    with pytest.raises(ServerError, match="dtype='int3'"), running_server(options):
        pass
