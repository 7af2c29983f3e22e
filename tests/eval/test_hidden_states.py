"""Hidden states of prompts, as an engine's shapes and pages give them."""

from jinfer.config import EngineConfig
from jinfer.eval.hidden_states import PromptReader
from jinfer.startup import start_engine
from tests.checkpoints import TINY_ENGINE, write_checkpoint

PROMPTS = [tuple(range(5, 18)), tuple(range(5, 16)), (*range(5, 18), 40, 41), tuple(range(60, 101))]


def test_every_position_is_computed_once_also_where_prompts_begin_alike(tmp_path):
    """More prompts than rows, chunks of a step's tokens, and pages that a prefix cache would share."""
    with start_engine(write_checkpoint(tmp_path), EngineConfig.from_options(TINY_ENGINE)) as parts:
        chunks = list(PromptReader(parts).read(PROMPTS))
    positions = [[] for _ in PROMPTS]
    for index, start, hidden in chunks:
        positions[index] += range(start, start + len(hidden))
    assert positions == [list(range(len(prompt))) for prompt in PROMPTS]
    assert len(chunks) > len(PROMPTS)
