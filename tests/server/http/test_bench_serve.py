"""`jinfer bench serve` against our own server: what it sends is accepted, and what it counts is there."""

import json
from pathlib import Path

import pytest

from jinfer import cli
from tests.server.http.conftest import MODEL
from tests.server.http.running_server import RunningServer


@pytest.fixture
def bench(served: RunningServer, capsys):
    """Runs the command, and gives the details of its one load."""

    def run(*words: str) -> dict:
        command = ["bench", "serve", *words, "--url", served.url, "--no-progress", "--json", "-"]
        assert cli.main(command) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line)["id"].startswith(f"{MODEL}-serve-")
        return json.loads(line)["details"]

    return run


def test_random_prompts_are_answered_whole(bench):
    details = bench("random-12x5", "--concurrency", "3", "--num-requests", "6")
    assert details["failures"] == {}
    assert (details["num_input_tokens"], details["num_output_tokens"]) == (6 * 12, 6 * 5)
    assert details["p50_ttft_ms"] > 0


def test_conversations_go_on_with_what_was_answered(bench, tmp_path: Path):
    file = tmp_path / "turns.jsonl"
    file.write_text(json.dumps({"turns": ["Once upon", "a time"]}) + "\n")
    words = ("conversations", "--prompts", str(file), "--endpoint", "chat", "--rate", "50")
    details = bench(*words, "--output-len", "4", "--ignore-eos")
    assert details["failures"] == {}
    assert details["num_output_tokens"] == 2 * 4
