"""A real trained model tells the story that its author recorded, byte for byte, however it is run."""

from pathlib import Path

import pytest

from jinfer import LLM, FinishReason, SamplingParams

NUM_TOKENS = 200
NUM_INTERPRETED_TOKENS = 70  # of 20 ms
OTHERS = {
    "Once upon a time": SamplingParams(temperature=0.8, seed=1, max_tokens=60),
    "Lily wanted to play with the big red ball, but her mom said": SamplingParams(top_p=0.9, seed=2, max_tokens=150),
    "The": SamplingParams(temperature=0, max_tokens=30),
}


# Interpreted kernels with other pages are in test_invariants.py, and compiled ones in test_gpu.py.
@pytest.mark.parametrize(
    ("attention", "page_size"), [("reference", 1), ("reference", 8), ("reference", 16), ("pallas", 8)]
)
def test_the_golden_story(stories260k: Path, attention, page_size):
    """Alone, then after other prompts: two rows for four requests, so that it waits and has changing company."""
    golden = (stories260k / "golden_greedy_200_tokens.txt").read_bytes().decode()
    num_tokens = NUM_INTERPRETED_TOKENS if attention == "pallas" else NUM_TOKENS
    greedy = SamplingParams(temperature=0, max_tokens=num_tokens)
    small = {"max_num_seqs": 2, "max_num_batched_tokens": 16, "max_model_len": 256, "progress": False}
    with LLM(stories260k, dtype="float32", attention=attention, page_size=page_size, **small) as llm:
        (alone,) = llm.generate("", greedy)
        *others, golden_again = llm.generate([*OTHERS, ""], [*OTHERS.values(), greedy])
        llm.check_integrity()
    for output in (alone, golden_again):
        assert output.text == golden if num_tokens == NUM_TOKENS else golden.startswith(output.text)
        assert len(output.outputs[0].token_ids) == num_tokens
        assert output.outputs[0].finish_reason is FinishReason.LENGTH
    assert all(output.finished and output.text for output in others)
