"""What the fixtures of tools/make_goldens.py hold, and the greedy ids that an engine gives for their
prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jinfer import LLM
from tests.conftest import CACHE

GOLDENS = Path(__file__).resolve().parents[1] / "fixtures" / "goldens"
NAMES = tuple(sorted(path.name for path in GOLDENS.iterdir()))
ENGINE: Mapping[str, Any] = {
    "page_size": 4,
    "max_num_seqs": 2,  # for three prompts: one waits, and joins the other
    "max_num_batched_tokens": 16,  # with two rows, three shapes to compile
    "kernels": "xla",
    "progress": False,
    "compilation_cache_dir": CACHE.name,  # the variants of the oracle are those of the goldens
}
MAX_LOGIT_ERROR = 1e-4


@dataclass(frozen=True, eq=False)
class Golden:
    """A prompt, what transformers makes of it, and its logits after some positions of both: [positions,
    vocab]."""

    prompt_ids: list[int]
    greedy_ids: list[int]
    positions: np.ndarray
    logits: np.ndarray


def read_goldens(name: str) -> list[Golden]:
    """Of each prompt of a fixture."""
    with np.load(GOLDENS / name / "golden.npz") as arrays:
        count = sum(key.startswith("prompt_ids_") for key in arrays)
        return [
            Golden(
                arrays[f"prompt_ids_{i}"].tolist(),
                arrays[f"greedy_ids_{i}"].tolist(),
                arrays[f"positions_{i}"],
                arrays[f"logits_{i}"],
            )
            for i in range(count)
        ]


def engine_greedy_ids(
    directory: Path, prompts: Sequence[Sequence[int]], num_tokens: int, **options: Any
) -> list[list[int]]:
    """The greedy continuations of all prompts, given to a float32 engine in one call."""
    with LLM(directory, dtype="float32", **{**ENGINE, **options}) as llm:
        outputs = llm.generate(prompts, temperature=0, max_tokens=num_tokens, ignore_eos=True)
        llm.check_integrity()
    return [list(output.outputs[0].token_ids) for output in outputs]
