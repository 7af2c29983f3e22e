"""What torch and transformers compute, in a process of their own.

So that the process that tests has not loaded torch, and what torch's threads do is nobody else's.
"""

import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tools.goldens.models import VARIANTS

NEEDED = ("torch", "transformers")


class Answer(NamedTuple):
    """A prompt, its greedy continuation, and the logits after each position but the last."""

    prompt_ids: list[int]
    greedy_ids: list[int]
    logits: np.ndarray


class Asked(NamedTuple):
    """Of a random model, which was saved: its seed and its answers."""

    seed: int
    answers: list[Answer]


def what_is_missing() -> str | None:
    """Why nobody can be asked here; None where somebody can."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return (
        f"needs {' and '.join(missing)}, which compute what is right: pip install jinfer[oracle]" if missing else None
    )


@contextmanager
def oracle_process() -> Iterator[Callable[[str, int, Path], Asked]]:
    """`ask_and_save` in a process that lives as long as the block."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield lambda *arguments: process.submit(ask_and_save, *arguments).result()


def ask_and_save(name: str, first_seed: int, directory: Path) -> Asked:
    """The answers of a random model of a variant, which is written to a directory."""
    import torch

    from tools.goldens.oracle import ask

    torch.set_num_threads(1)  # more cost more than they bring on models this small
    oracle = ask(VARIANTS[name], first_seed)
    oracle.save(directory)
    return Asked(oracle.seed, [Answer(a.prompt_ids.tolist(), a.greedy_ids.tolist(), a.logits) for a in oracle.answers])
