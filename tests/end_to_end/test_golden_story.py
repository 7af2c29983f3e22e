"""A real trained model tells the story that its author recorded, byte for byte, however it is run."""

from pathlib import Path

import pytest

from jinfer import LLM, FinishReason, SamplingParams

NUM_TOKENS = 200
OTHERS = {
    "Once upon a time": SamplingParams(temperature=0.8, seed=1, max_tokens=60),
    "Lily wanted to play with the big red ball, but her mom said": SamplingParams(
        top_p=0.9, seed=2, max_tokens=150
    ),
    "The": SamplingParams(temperature=0, max_tokens=30),
}


# A shape of interpreted kernels compiles for ten seconds and more: they have one row, so one shape less, few
# tokens in a step, and tell it once. They have company, and other pages, in test_invariants.py, and are
# compiled ones in test_gpu.py. Pages of 1 and 4 are there as well.
@pytest.mark.parametrize(
    ("kernels", "page_size", "rows", "step_tokens"),
    [("xla", 1, 2, 16), ("xla", 16, 2, 16), ("pallas", 8, 1, 4)],
)
def test_the_golden_story(stories260k: Path, kernels, page_size, rows, step_tokens):
    """Alone, then after other prompts: two rows for four requests, so that it waits and has changing
    company."""
    golden = (stories260k / "golden_greedy_200_tokens.txt").read_bytes().decode()
    greedy = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
    small = {
        "max_num_seqs": rows,
        "max_num_batched_tokens": step_tokens,
        "max_model_len": 256,
        "progress": False,
    }
    with LLM(stories260k, dtype="float32", kernels=kernels, page_size=page_size, **small) as llm:
        (alone,) = llm.generate("", greedy)
        again = [] if kernels == "pallas" else llm.generate([*OTHERS, ""], [*OTHERS.values(), greedy])
        llm.check_integrity()
    for output in (alone, *again[-1:]):
        assert output.text == golden
        assert len(output.outputs[0].token_ids) == NUM_TOKENS
        assert output.outputs[0].finish_reason is FinishReason.LENGTH
    assert all(output.finished and output.text for output in again)
