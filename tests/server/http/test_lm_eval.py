"""lm-evaluation-harness gets the log likelihoods from a server that it gets from transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.server.http.conftest import MODEL

pytest.importorskip("lm_eval", reason="needs lm_eval: pip install 'jinfer[oracle]'")
pytestmark = pytest.mark.oracle

QUESTIONS = [
    {"question": "the cat", "choices": ["sat", "ran away", "once upon a time"], "answer": 0},
    {"question": "once upon a", "choices": ["time", "rain"], "answer": 0},
    {"question": "rain", "choices": ["the cat sat", "and", "rain rain rain"], "answer": 1},
]
TASK = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def task_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "tiny_choices.yaml").write_text(TASK.format(data=data))
    return tmp_path


def log_likelihoods(task_directory: Path, url: str, **model_args: Any) -> list[list[float]]:
    """The log likelihood of each choice of each question, as lm_eval asks a server for it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="local-completions",
        model_args={"base_url": f"{url}/v1/completions", "model": MODEL, "num_concurrent": 1, **model_args},
        tasks=["tiny_choices"],
        task_manager=TaskManager(include_path=str(task_directory), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(found["samples"]["tiny_choices"], key=lambda sample: sample["doc_id"])
    return [[float(response[0]) for response in sample["filtered_resps"]] for sample in samples]


def expected_log_likelihoods(directory: Path) -> list[list[float]]:
    """The same by transformers: the sum over the tokens that a choice adds to its question."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)

    def of_choice(question: str, choice: str) -> float:
        ids = tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]
        num_given = len(tokenizer(question, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1)
        return sum(float(logprobs[i - 1, ids[i]]) for i in range(num_given, len(ids)))

    return [[of_choice(each["question"], choice) for choice in each["choices"]] for each in QUESTIONS]


@pytest.mark.filterwarnings("ignore")  # of the libraries that it loads
@pytest.mark.parametrize("backend", ["huggingface", "remote"])
def test_local_completions_says_what_transformers_says(served, model_directory, task_directory, backend):
    tokenizer = {} if backend == "remote" else {"tokenizer": str(model_directory)}
    found = log_likelihoods(task_directory, served.url, tokenizer_backend=backend, **tokenizer)
    for mine, theirs in zip(found, expected_log_likelihoods(model_directory), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)
