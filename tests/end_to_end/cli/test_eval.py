"""`jinfer eval` from end to end on tiny models: its figures against logits that no engine has computed."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoints import (
    BOS_ID,
    CONFIG,
    CONTEXT,
    VOCAB_SIZE,
    random_tensors,
    tiny_tokenizer,
    write_checkpoint,
)
from tests.end_to_end.cli.helpers import ENGINE
from tests.models.paged_run import PagedRun

TEXT = "the cat sat on the mat and the dog lay by the door ☃ while the rain fell; once upon a time there was"
WINDOW, STRIDE = 20, 12
WINDOWS = ("--window", str(WINDOW), "--stride", str(STRIDE))
CIRCUMSTANCES = ["date", "versions", "command"]
COMMON = ["window", "stride", "prefix_tokens", "windows", "tokens", "scored_tokens", "scored_bytes"]
FIGURES = ["mean_nll_nats", "perplexity", "bits_per_byte"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def measured(run, text) -> Callable[..., dict[str, Any]]:
    """The object that a command prints."""

    def measured(*words: str | Path) -> dict[str, Any]:
        finished = run("eval", *words, "--text", text, *ENGINE, "--json", "-")
        assert finished.status == 0, finished.stderr
        (found,) = finished.objects
        return found

    return measured


def scored_logprobs(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """[scored tokens, vocab] in float64, and the tokens, window by window: BOS before each, and of those
    after the first only the last STRIDE tokens."""
    token_ids = tiny_tokenizer().encode(TEXT, add_special_tokens=False).ids
    model, rows, targets, num_done = PagedRun.of_checkpoint(directory), [], [], 0
    for begin in range(0, len(token_ids), STRIDE):
        window = token_ids[begin : begin + WINDOW]
        (logits,) = model.logits([[BOS_ID, *window]], [len(window) + 1], chunk_size=32)
        num_new = begin + len(window) - num_done
        rows.append(logits[:-1][-num_new:].astype(np.float64))
        targets += window[-num_new:]
        num_done += num_new
        if num_done == len(token_ids):
            break
    logits = np.concatenate(rows)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), np.array(targets)


def mean_nll(logprobs: np.ndarray, targets: np.ndarray) -> float:
    return float(-logprobs[np.arange(len(targets)), targets].mean())


def test_perplexity_is_that_of_the_models_logits(measured, directory):
    found = measured("perplexity", "--model", directory, *WINDOWS)
    logprobs, targets = scored_logprobs(directory)
    expected = mean_nll(logprobs, targets)

    assert list(found) == ["model", "text", *COMMON, *FIGURES, "seconds", "tokens_per_s", *CIRCUMSTANCES]
    assert (found["model"], found["text"]) == (directory.name, "text.txt")
    assert found["tokens"] == found["scored_tokens"] == len(targets)
    assert found["windows"] > 2
    assert found["scored_bytes"] == len(TEXT.encode())
    assert found["mean_nll_nats"] == pytest.approx(expected, abs=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(found["mean_nll_nats"]))
    bits = found["mean_nll_nats"] * len(targets) / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / len(TEXT.encode()))
    assert "--text text.txt" in found["command"]


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(run, text, tmp_path):
    """Beside it, the table that is printed without --json -."""
    uniform = {"lm_head.weight": np.zeros((VOCAB_SIZE, CONFIG["hidden_size"]), np.float32)}
    write_checkpoint(tmp_path / "uniform", tensors=random_tensors() | uniform)
    words = (
        "--model",
        tmp_path / "uniform",
        "--text",
        text,
        "--max-tokens",
        "30",
        "--json",
        tmp_path / "out",
    )
    finished = run("eval", "perplexity", *words, *ENGINE)

    assert finished.status == 0, finished.stderr
    found = json.loads((tmp_path / "out").read_text())
    assert found["perplexity"] == pytest.approx(VOCAB_SIZE, rel=1e-6)
    assert found["tokens"] == found["scored_tokens"] == 30
    assert found["window"] == found["stride"] == CONTEXT - 2
    printed = dict(line.split("  ", 1) for line in finished.stdout.splitlines())
    assert float({name.strip(): value for name, value in printed.items()}["perplexity"]) == VOCAB_SIZE


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--window", "63"), ("window=63", "from 2 to 62", "context of 64")),
        (("--window", "8", "--stride", "9"), ("stride=9", "window of 8", "lower --stride")),
        (("--max-tokens", "1"), ("has 1 tokens", "at least 2", "--max-tokens")),
        (("--text", "nowhere.txt"), ("nowhere.txt cannot be read", "name a file")),
        (("--json", "nowhere/out"), ("--json", "cannot be written")),
    ],
)
def test_what_is_wrong_is_told_before_weights_are_read(run, directory, text, words, parts):
    finished = run("eval", "perplexity", "--model", directory, "--text", text, *ENGINE, *words)
    assert (finished.status, finished.stdout) == (1, "")
    (line,) = (line for line in finished.stderr.splitlines() if line.startswith("jinfer: error: "))
    assert all(part in line for part in parts)
    assert "loading the weights" not in finished.stderr


def refusal(run, *words: str | Path) -> str:
    """The line of a command that refuses to begin."""
    finished = run("eval", *words, *ENGINE)
    assert (finished.status, finished.stdout) == (1, "")
    assert "loading the weights" not in finished.stderr
    (line,) = (line for line in finished.stderr.splitlines() if line.startswith("jinfer: error: "))
    return line


def test_a_model_without_a_tokenizer(run, text, tmp_path):
    write_checkpoint(tmp_path, tokenizer=False)
    assert "has no tokenizer" in refusal(run, "perplexity", "--model", tmp_path, "--text", text)
