"""The parts of a step with masks, measured on a CPU."""

import pytest

from benchmarks import structured_steps
from jinfer import LLM

pytest.importorskip("llguidance", reason="needs llguidance: pip install 'jinfer[structured]'")


def test_the_parts_of_both_kinds_of_steps_are_timed():
    with LLM(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=256, progress=False) as llm:
        found = structured_steps.measure(llm, num_rows=2, num_tokens=8)
    free, structured = found["free"], found["structured"]
    assert free.keys() == {"period", "step", "schedule", "dispatch", "accept", "read"}
    assert structured.keys() == {"period", "step", "schedule", "begin", "accept", "read", "fill", "choose"}
    assert all(ms > 0 for parts in found.values() for ms in parts.values())
