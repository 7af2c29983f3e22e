"""Perplexity of a trained model against transformers, live."""

import json
from pathlib import Path

import pytest

from jinfer import cli
from jinfer.eval.tokenized_text import TokenizedText
from jinfer.text.tokenizer import Tokenizer
from tests.conftest import CACHE

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch", reason="torch computes what is right; install jinfer[oracle]")
pytest.importorskip("transformers", reason="transformers computes what is right; install jinfer[oracle]")

WINDOW, STRIDE, NUM_TOKENS = 128, 96, 400
ENGINE = (
    *(
        "--dtype",
        "float32",
        "--max-num-seqs",
        "2",
        "--max-num-batched-tokens",
        "64",
        "--max-model-len",
        "192",
    ),
    *("--compilation-cache-dir", CACHE.name, "--no-progress"),
)


def losses_of_transformers(directory: Path, text: TokenizedText) -> "torch.Tensor":
    """The loss of each token, by the loop that transformers' documentation gives for models of fixed length,
    with BOS before each window."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    losses, previous_end = [], 0
    for begin in range(0, NUM_TOKENS, STRIDE):
        end = min(begin + WINDOW, NUM_TOKENS)
        ids = torch.tensor([[*text.prefix, *text.token_ids[begin:end]]])
        num_new = end - previous_end
        with torch.no_grad():
            logits = model(ids).logits[0, :-1][-num_new:]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, -num_new:], reduction="none"))
        previous_end = end
        if end == NUM_TOKENS:
            break
    return torch.cat(losses).double()


def test_the_mean_loss_is_that_of_transformers(stories260k, shared_data, capsys):
    path = shared_data / "text" / "tinyshakespeare.txt"
    text = TokenizedText.of(path.read_text("utf-8"), Tokenizer.from_directory(stories260k), NUM_TOKENS)
    assert text.prefix == (1,)
    losses = losses_of_transformers(stories260k, text)
    assert len(losses) == NUM_TOKENS

    windows = ("--window", WINDOW, "--stride", STRIDE, "--max-tokens", NUM_TOKENS)
    words = ("eval", "perplexity", "--model", stories260k, "--text", path, *windows, *ENGINE, "--json", "-")
    assert cli.main([str(word) for word in words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scored_tokens"] == NUM_TOKENS
    assert found["mean_nll_nats"] == pytest.approx(losses.mean().item(), abs=1e-4)
    assert found["perplexity"] == pytest.approx(losses.mean().exp().item(), rel=1e-4)
