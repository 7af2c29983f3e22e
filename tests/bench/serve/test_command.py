"""`jinfer bench serve` from end to end against a server in a thread: what it prints, writes and refuses."""

import json
import os
import re
import signal
import threading

import pytest

from jinfer import cli
from jinfer.bench.serve.conversations import WorkloadOptions, find_conversations
from tests.bench.serve.mock_server import MockServer, Reply, in_thread, reply

BUSY = Reply(
    ((0, b'{"error": {"message": "the queue is full"}}'),),
    "503 Service Unavailable",
    {"Content-Type": "application/json", "Retry-After": "7"},
)
OPTIONS = WorkloadOptions(seed=0, vocab_size=256, output_len=128, ignore_eos=False)
QUICK = {"first_s": 0.02, "gap_s": 0.001}


def quick(body: dict) -> Reply:
    return reply(body, **QUICK)


@pytest.fixture
def serve(capsys):
    """Runs the command against a server that answers as it is told."""

    def run(*words, server: MockServer) -> tuple[int, str, str]:
        with in_thread(server) as url:
            status = cli.main(["bench", "serve", *map(str, words), "--url", url, "--no-progress"])
        return status, *capsys.readouterr()

    return run


def test_everything_it_writes_agrees(serve, tmp_path):
    server = MockServer(lambda body: BUSY if len(server.bodies) in (3, 5) else quick(body))
    files = {name: tmp_path / name for name in ("out.jsonl", "records.jsonl", "picture.png")}
    status, out, err = serve(
        *("random-6x4", "--rate", 200, "--num-requests", 8, "--goodput", "ttft:1", "tpot:100000"),
        *("--json", files["out.jsonl"], "--records", files["records.jsonl"], "--plot", files["picture.png"]),
        server=server,
    )
    assert status == 0, err
    assert re.search(r"requests +6 ok, 2 failed\n +2 x http 503: the queue is full \(Retry-After: 7\)", out)
    (line,) = map(json.loads, files["out.jsonl"].read_text().splitlines())
    assert list(line) == ["id", "date", "versions", "command", "details"]
    assert line["id"] == "mock-model-1b-serve-random-6x4-rate200"
    assert line["versions"]["server"] == "1.2.3"
    assert "--plot" not in line["command"]
    details = line["details"]
    assert details["failures"] == {"http 503": 2}
    assert (details["num_input_tokens"], details["num_output_tokens"]) == (36, 24)
    assert details["p50_ttft_ms"] >= 20
    assert (details["num_good"], details["goodput_percent"]) == (0, 0)
    records = [json.loads(record) for record in files["records.jsonl"].read_text().splitlines()]
    assert [record["conversation"] for record in records] == list(range(8))
    assert sum(record["failure"] == "http 503" for record in records) == 2
    assert files["picture.png"].read_bytes().startswith(b"\x89PNG")
    assert len(server.bodies) == 9, "one request warms up"
    assert {body["model"] for body in server.bodies} == {"Mock-Model-1B"}


def test_conversations_send_what_was_answered(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MOCK_KEY", "k")
    file = tmp_path / "turns.jsonl"
    file.write_text('{"turns": ["one", "two"]}\n{"turns": ["three"]}\n')
    server = MockServer(quick)
    status, out, err = serve(
        *("conversations", "--prompts", file, "--endpoint", "chat", "--concurrency", 1, "--output-len", 2),
        *("--warm-up", 0, "--model", "m", "--body", '{"top_k": 3}', "--api-key-variable", "MOCK_KEY"),
        server=server,
    )
    assert status == 0, err
    assert [[message["content"] for message in body["messages"]] for body in server.bodies] == [
        ["one"],
        ["one", " 0 1", "two"],
        ["three"],
    ]
    assert {(body["top_k"], body["model"]) for body in server.bodies} == {(3, "m")}
    assert server.paths == ["/v1/chat/completions"] * 3
    assert {headers["authorization"] for headers in server.headers} == {"Bearer k"}
    assert "3 ok, 0 failed" in out


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_tells_what_there_is(capsys, processes):
    """Several processes make the load that one does."""
    server = MockServer()
    server.answer = lambda body: quick(body) if len(server.bodies) <= 4 else _never_ending()
    with in_thread(server) as url:
        watch = threading.Thread(target=_interrupt_when, args=(lambda: len(server.bodies) >= 6,))
        watch.start()
        words = ("--concurrency", "2", "--num-requests", "9", "--processes", str(processes), "--warm-up", "0")
        status = cli.main(["bench", "serve", "random-6x4", *words, "--url", url, "--no-progress"])
        watch.join()
    out, err = capsys.readouterr()
    assert status == 130
    assert re.search(r"requests +4 ok, 2 failed\n +2 x interrupted", out), out + err
    assert "24 in " in out
    asked = [find_conversations("random-6x4", OPTIONS).get(number).turns[0] for number in range(9)]
    found = [asked.index(tuple(body["prompt"])) for body in server.bodies]
    assert len(set(found)) == 6, "nothing is sent twice"
    assert {number % processes for number in found} == set(range(processes))


def _never_ending() -> Reply:
    return Reply(((600.0, b""),))


def _interrupt_when(condition) -> None:
    waited = threading.Event()
    for _ in range(30_000):
        if condition():
            os.kill(os.getpid(), signal.SIGINT)
            return
        waited.wait(0.01)


def test_a_load_without_any_answer_is_a_failure(serve):
    status, out, _ = serve(
        "random-6x4",
        "--concurrency",
        1,
        "--num-requests",
        2,
        "--warm-up",
        0,
        server=MockServer(lambda _: BUSY),
    )
    assert status == 1
    assert "0 ok, 2 failed" in out


def test_a_failed_warm_up_ends_it(serve):
    status, out, err = serve("random-6x4", "--concurrency", 1, server=MockServer(lambda body: BUSY))
    assert (status, out) == (1, "")
    assert "failed (http 503: the queue is full (Retry-After: 7)), and others would" in err
    assert "--warm-up 0" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("random-6x4",), "random-6x4 needs --rate R"),
        (("trace", "--rate", "1", "--trace", "x"), "the workload trace has times of its own"),
        (("trace",), "the workload trace needs --trace FILE.csv"),
        (("prompts", "--rate", "1"), "need --prompts FILE.jsonl"),
        (("random-6x4", "--rate", "1", "--endpoint", "chat"), "--endpoint chat takes no token ids"),
        (("random-6x4", "--concurrency", "2", "--processes", "3"), "--processes 3 divide --concurrency 2"),
        (("random-6x4", "--rate", "1", "--url", "localhost:1"), "must begin with http:// or https://"),
        (("b1", "--rate", "1"), "unknown serve workload 'b1'; there are random-INxOUT"),
        (("random-6x4", "--rate", "1", "--json", "nowhere/x"), "--json nowhere/x cannot be written"),
        (
            ("random-6x4", "--rate", "1", "--url", "http://127.0.0.1:1"),
            "does not list its models: connection",
        ),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(words, message, capsys):
    assert cli.main(["bench", "serve", *words]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


@pytest.mark.parametrize(
    "words",
    [
        ("--rate", "0"),
        ("--rate", "1", "--concurrency", "1"),
        ("--goodput", "ttft"),
        ("--goodput", "speed:1"),
        ("--goodput", "ttft:x"),
        ("--body", "[]"),
        ("--body", "{"),
        ("--think-time", "-1"),
    ],
)
def test_malformed_options_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "serve", "mixed", *words])
    assert "usage: jinfer bench serve" in capsys.readouterr().err
