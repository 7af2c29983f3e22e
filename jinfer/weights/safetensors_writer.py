"""Safetensors files of a new checkpoint, written while its tensors are made."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from jinfer.weights.safetensors_directory import INDEX_FILE, SINGLE_FILE

MODE = 0o644  # of a file as others are: safetensors makes it its owner's alone
MAX_SHARD_BYTES = 4 * 10**9  # of the tensors that wait for the end of their file
METADATA = {"format": "pt"}  # which transformers asks for


class SafetensorsWriter:
    """Tensors by name into one file of a directory, or into several with an index, in the order in which they
    are added. Raises what writing a file raises."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: dict[str, np.ndarray] = {}
        self._shards: list[list[str]] = []
        self._num_bytes = 0

    def add(self, name: str, tensor: np.ndarray) -> None:
        """Takes a tensor, and writes those that wait where the file would be too large with it."""
        waiting = sum(each.nbytes for each in self._waiting.values())
        if self._waiting and waiting + tensor.nbytes > MAX_SHARD_BYTES:
            self._write()
        self._waiting[name] = np.ascontiguousarray(tensor)
        self._num_bytes += tensor.nbytes

    def close(self) -> None:
        """Writes the rest, and gives the files their names: what they are called says how many there are."""
        self._write()
        if len(self._shards) == 1:
            self._file(0).rename(self._directory / SINGLE_FILE)
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors"
            self._file(number).rename(self._directory / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._num_bytes}, "weight_map": weight_map}
        (self._directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _write(self) -> None:
        file = self._file(len(self._shards))
        save_file(self._waiting, file, METADATA)
        file.chmod(MODE)
        self._shards.append(list(self._waiting))
        self._waiting = {}

    def _file(self, number: int) -> Path:
        return self._directory / f"shard-{number}.safetensors"
