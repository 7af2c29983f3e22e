"""Writes the golden fixtures: tiny checkpoints, and what transformers computes from them.

    python -m tools.make_goldens                    all of them, to tests/fixtures/goldens
    python -m tools.make_goldens --only qwen3_biases

Needs the extra `oracle` (torch and transformers). For each variant of tools/goldens/models.py it writes a
directory with config.json, safetensors and golden.npz, which holds the seed and, for each prompt i,

    prompt_ids_i  greedy_ids_i (64)
    positions_i, logits_i       logits after a few positions of prompt and continuation: inside and at the end
                                of the prompt, where they come from prefill, and after it, where they come
                                from decode steps
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers

from tools.goldens import qwen3_chat
from tools.goldens.models import VARIANTS, Variant
from tools.goldens.oracle import Answer, Oracle, ask

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "goldens"
FIRST_SEED = 0
# A tenth of what tests allow: a GPU rounds otherwise than transformers on a CPU, several times as much.
MAX_ROUNDING = 1e-5
DECODE_STEPS = (0, 1, 20, 62)  # of 0 to 62: the first token comes from prefill, the other 63 from decode


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Writes tiny checkpoints and what transformers computes from them."
    )
    parser.add_argument("--out", type=Path, default=GOLDENS, help="default: tests/fixtures/goldens")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: all variants")
    parser.add_argument(
        "--qwen3-chat", action="store_true", help="also ids of Qwen3's chat template (tools.goldens)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the models are tiny, and sums do not depend on the machine's cores
    for name in arguments.only:
        oracle = steady(VARIANTS[name])
        write(oracle, arguments.out / name)
        print(f"{name}: seed {oracle.seed}, transformers {transformers.__version__}")
    if arguments.qwen3_chat:
        qwen3_chat.write()


def steady(variant: Variant) -> Oracle:
    """The oracle of the first seed whose weights do not multiply rounding."""
    seed = FIRST_SEED
    while True:
        oracle = ask(variant, seed, log=print)
        if oracle.rounding <= MAX_ROUNDING:
            return oracle
        print(f"seed {oracle.seed}: rounding moves logits by {oracle.rounding:.1e}; trying the next")
        seed = oracle.seed + 1


def write(oracle: Oracle, directory: Path) -> None:
    """One fixture, in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    oracle.save(directory)
    arrays = {"seed": np.array(oracle.seed)}
    for i, answer in enumerate(oracle.answers):
        positions = stored_positions(answer)
        arrays[f"prompt_ids_{i}"], arrays[f"greedy_ids_{i}"] = answer.prompt_ids, answer.greedy_ids
        arrays[f"positions_{i}"], arrays[f"logits_{i}"] = positions, answer.logits[positions]
    np.savez(directory / "golden.npz", **arrays)


def stored_positions(answer: Answer) -> np.ndarray:
    """The prompt's first, middle and last position, and a few later ones."""
    length = len(answer.prompt_ids)
    return np.array([0, length // 2, length - 1, *(length + step for step in DECODE_STEPS)], np.int32)


if __name__ == "__main__":
    main()
