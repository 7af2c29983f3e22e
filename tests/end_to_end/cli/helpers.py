"""What the tests of the command line share besides its fixtures."""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from tests.conftest import CACHE, COMPILES_FAST

REPOSITORY = Path(__file__).resolve().parents[3]
ENGINE = (
    *("--dtype", "float32", "--page-size", "4", "--max-num-seqs", "2", "--max-num-batched-tokens", "16"),
    *("--compilation-cache-dir", CACHE.name),
)  # TINY_ENGINE in words
GREEDY = ("--temperature", "0", "--max-tokens", "12", "--ignore-eos")
RANDOM = ("--temperature", "1", "--max-tokens", "12", "--ignore-eos", "--seed", "7")
GREEDY_OPTIONS = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
RANDOM_OPTIONS = {"temperature": 1.0, "max_tokens": 12, "ignore_eos": True, "seed": 7}
TEXT, OTHER_TEXT, IDS = "the cat sat", "once upon a time", [5, 6, 7]


class Finished(NamedTuple):
    status: int
    stdout: str
    stderr: str

    @property
    def objects(self) -> list[dict]:
        """What --json printed, one object a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


def new_environment() -> dict[str, str]:
    """Of a process that finds what this one has compiled."""
    return {
        **os.environ,
        **COMPILES_FAST,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command_line(prompts: Sequence[str | list[int]]) -> list[str]:
    return [
        word
        for prompt in prompts
        for word in (
            ("--prompt", prompt)
            if isinstance(prompt, str)
            else ("--prompt-token-ids", ",".join(map(str, prompt)))
        )
    ]


class Failing(io.RawIOBase):
    """A file that takes so many bytes, and then raises."""

    def __init__(self, num_bytes: int, fault: BaseException) -> None:
        self.content, self._room, self._fault = b"", num_bytes, fault

    def writable(self) -> bool:
        return True

    def write(self, content) -> int:
        taken = bytes(content)[: self._room]
        if content and not taken:
            raise self._fault
        self.content, self._room = self.content + taken, self._room - len(taken)
        return len(taken)


def wrapped(raw: io.RawIOBase, encoding: str = "utf-8") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)
