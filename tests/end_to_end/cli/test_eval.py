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
CONTINUATIONS = ("--num-prompts", "3", "--prompt-tokens", "5", "--output-tokens", "6")
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


def test_a_model_beside_itself(measured, directory):
    found = measured("compare", directory, directory, *WINDOWS, *CONTINUATIONS)

    of_kl = [f"kl_{name}_nats" for name in ("mean", "median", "p99", "max")]
    agreements = ["continuations", "token_agreement", "whole_agreement"]
    of_each = [f"{name}_{model}" for model in "ab" for name in FIGURES]
    between = ["perplexity_ratio", "top1_agreement", *of_kl, *agreements]
    assert list(found) == ["a", "b", "text", *COMMON, *of_each, *between, *CIRCUMSTANCES]
    assert [found[name] for name in of_kl] == [0, 0, 0, 0]
    assert found["perplexity_ratio"] == found["top1_agreement"] == 1
    assert [found[name] for name in agreements] == [3, 1, 1]


def test_two_models_differ_as_their_logits_do(measured, directory, tmp_path):
    other = write_checkpoint(tmp_path / "other", tensors=random_tensors(seed=1))
    found = measured("compare", directory, other, *WINDOWS, *CONTINUATIONS)

    (logprobs_a, targets), (logprobs_b, _) = scored_logprobs(directory), scored_logprobs(other)
    kl = (np.exp(logprobs_a) * (logprobs_a - logprobs_b)).sum(-1)
    assert kl.min() > 0
    expected = {
        "scored_tokens": len(targets),
        "mean_nll_nats_a": mean_nll(logprobs_a, targets),
        "mean_nll_nats_b": mean_nll(logprobs_b, targets),
        "top1_agreement": float(np.mean(logprobs_a.argmax(-1) == logprobs_b.argmax(-1))),
        "kl_mean_nats": kl.mean(),
        "kl_median_nats": np.median(kl),
        "kl_p99_nats": np.percentile(kl, 99),
        "kl_max_nats": kl.max(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    ratio = math.exp(found["mean_nll_nats_b"] - found["mean_nll_nats_a"])
    assert found["perplexity_ratio"] == pytest.approx(ratio)
    assert found["token_agreement"] < 1
    assert found["whole_agreement"] == 0


def test_a_model_without_finite_logits_has_no_perplexity(run, text, tmp_path):
    broken = {"lm_head.weight": np.full((VOCAB_SIZE, CONFIG["hidden_size"]), np.nan, np.float32)}
    write_checkpoint(tmp_path, tensors=random_tensors() | broken)
    finished = run("eval", "perplexity", "--model", tmp_path, "--text", text, *ENGINE, *WINDOWS)
    assert (finished.status, finished.stdout) == (1, "")
    assert "jinfer: error: prompt " in finished.stderr
    assert "not finite" in finished.stderr


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


def test_models_that_cannot_be_compared(run, directory, text, tmp_path):
    wider = {**CONFIG, "vocab_size": VOCAB_SIZE + 1}
    write_checkpoint(tmp_path / "wider", config=wider)
    line = refusal(run, "compare", directory, tmp_path / "wider", "--text", text)
    assert "model A has 300 logits and model B 301" in line

    other = write_checkpoint(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    tokenizer["padding"] = None  # says nothing of ids
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    line = refusal(run, "compare", directory, other, "--text", text)
    assert "differ in model of tokenizer.json" in line

    line = refusal(run, "compare", directory, directory, "--text", text, "--prompt-tokens", "60")
    assert "the context holds 64; lower --prompt-tokens or --output-tokens" in line


def test_a_model_without_a_tokenizer(run, text, tmp_path):
    write_checkpoint(tmp_path, tokenizer=False)
    assert "has no tokenizer" in refusal(run, "perplexity", "--model", tmp_path, "--text", text)
    line = refusal(run, "compare", tmp_path, tmp_path, "--text", text)
    assert "model A has no tokenizer" in line


def test_a_disk_that_is_full(run, directory, text, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jinfer.eval.hidden_states.os.posix_fallocate", full)
    finished = run("eval", "compare", directory, directory, "--text", text, *ENGINE, *WINDOWS, *CONTINUATIONS)
    assert finished.status == 1
    assert "cannot be kept" in finished.stderr
    assert (
        "No space left on device; lower --max-tokens, or name a larger directory in TMPDIR" in finished.stderr
    )
