"""generation_config.json, against transformers' `generate`, which obeys it: the same greedy tokens."""

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from jinfer import LLM
from tests.checkpoints import CONFIG, TINY_ENGINE, random_tensors, write_json

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_torch_thread")]
torch = pytest.importorskip("torch", reason="torch computes what is right; install jinfer[oracle]")
pytest.importorskip("transformers", reason="transformers computes what is right; install jinfer[oracle]")

PROMPT, NUM_TOKENS = [5, 17, 3, 88, 41, 2, 9, 60, 33], 24


def test_a_repetition_penalty_is_applied_unless_a_request_has_its_own(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {**CONFIG, "model_type": "llama", "hidden_act": "silu"})
    save_file(random_tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    expected = {}
    for penalty in (1.0, 1.3):
        write_json(tmp_path / "generation_config.json", {"repetition_penalty": penalty, "do_sample": False})
        expected[penalty] = by_transformers(tmp_path)
    assert expected[1.0] != expected[1.3], "the penalty changes nothing here"

    options = {"temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True}
    with LLM(tmp_path, **TINY_ENGINE) as llm:
        split_steps = llm.parts.executor.split_steps
        assert split_steps.prepare("processed").done(), "no request waits for what every request needs"
        assert list(llm.generate(PROMPT, **options)[0].outputs[0].token_ids) == expected[1.3]
        own = llm.generate(PROMPT, repetition_penalty=1.0, **options)[0].outputs[0]
        assert list(own.token_ids) == expected[1.0]


def by_transformers(directory: Path) -> list[int]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    prompt = torch.tensor([PROMPT])
    with torch.no_grad():
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NUM_TOKENS,
            min_new_tokens=NUM_TOKENS,
            pad_token_id=0,
        )
    return ids[0, len(PROMPT) :].tolist()
