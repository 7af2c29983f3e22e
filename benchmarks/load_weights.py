"""How fast a checkpoint that lies in the page cache comes to the device, beside what bounds it.

    python -m benchmarks.load_weights CONFIG_DIRECTORY [--layers N] [--directory DIRECTORY] [--loads 2]

Writes a checkpoint of random bfloat16 weights with the shapes of a config.json, loads it several times (the
first load compiles, too), compares what came with the files, and prints lines of JSON in GB/s (10^9 bytes):
reading the files alone, copying staging buffers alone, and each load. The files are deleted at the end.
"""

import argparse
import dataclasses
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jinfer.models.model import Model
from jinfer.models.registry import build_model, read_model_config
from jinfer.placement import default_placement
from jinfer.weights import staging
from jinfer.weights.hub import read_json
from jinfer.weights.params import Params, flatten, num_bytes
from jinfer.weights.safetensors import load_checkpoint
from jinfer.weights.safetensors_directory import INDEX_FILE, find_tensors
from jinfer.weights.safetensors_file import LENGTH_BYTES
from jinfer.weights.streaming import BUFFER_BYTES

GB = 10**9
SHARD_BYTES = 5 * GB
# Of the random block that fills the files; a prime, so that no two tensors are the same.
BLOCK_ELEMENTS = 31_999_999
COPIED_BYTES = 4 * GB


def main() -> None:
    """Writes the checkpoint, measures, and deletes the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="a directory with a config.json")
    parser.add_argument("--layers", type=int, help="fewer layers than the config says")
    parser.add_argument(
        "--directory", type=Path, help="where the files are written for a while; default: the system's"
    )
    parser.add_argument("--loads", type=int, default=2)
    options = parser.parse_args()
    config = read_model_config(read_json(options.config / "config.json"))
    if options.layers:
        config = dataclasses.replace(config, layers=config.layers[: options.layers])
    model, device = build_model(config, jnp.dtype("bfloat16"), "xla"), default_placement().device
    size = num_bytes(model.abstract_params)
    _say(
        device=device.device_kind, jax=jax.__version__, cpus=os.cpu_count(), checkpoint_gb=round(size / GB, 2)
    )
    with tempfile.TemporaryDirectory(prefix="jinfer-load-", dir=options.directory) as name:
        directory = Path(name)
        _timed("write the files", size, lambda: _write_checkpoint(model, directory))
        _timed("read the files alone", size, lambda: _read_alone(directory))
        _measure_copies()
        for i in range(options.loads):
            params = _timed(f"load {i + 1}", size, lambda: jax.block_until_ready(_load(model, directory)))
            if i == 0:
                _check(model, params, directory)
            jax.tree.map(lambda array: array.delete(), params)


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _timed(what: str, size: int, call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    _say(what=what, seconds=round(seconds, 3), gb_per_s=round(size / seconds / GB, 2))
    return result


def _load(model: Model, directory: Path) -> Params:
    return load_checkpoint(model.param_specs, directory, placement=default_placement(), progress=False)


def _measure_copies() -> None:
    """Copies staging buffers to the device, as many at a time as a load does, without reading files into
    them."""
    reads = [lambda buffer: None] * (COPIED_BYTES // BUFFER_BYTES)

    def copy() -> None:
        for on_device in staging.stream(reads, BUFFER_BYTES, default_placement()):
            on_device.block_until_ready()

    for what in ("copy staging buffers, and make them", "copy staging buffers"):
        _timed(what, COPIED_BYTES, copy)


def _read_alone(directory: Path) -> None:
    """Reads all tensors into ordinary memory, in the pieces and threads of a load."""
    buffers = {}

    def read(file: Path, first_byte: int) -> None:
        buffer = buffers.setdefault(threading.get_ident(), np.zeros(BUFFER_BYTES, np.uint8))
        with file.open("rb", buffering=0) as opened:
            opened.seek(first_byte)
            opened.readinto(buffer.data)

    with ThreadPoolExecutor(min(staging.MAX_READERS, os.cpu_count() or 1)) as readers:
        for file in sorted(directory.glob("*.safetensors")):
            for first_byte in range(0, file.stat().st_size, BUFFER_BYTES):
                readers.submit(read, file, first_byte)


def _check(model: Model, params: Params, directory: Path) -> None:
    """Compares the last layer of every parameter with the bytes of the files."""
    tensors, loaded = find_tensors(directory), flatten(params)
    for path, spec in model.param_specs.by_path.items():
        last_layer = list(spec.tensor_names())[-len(spec.tensors) :]
        stored = [tensors[name] for name in last_layer]
        arrays = [np.memmap(x.file, x.dtype, "r", x.first_byte, x.shape) for x in stored]
        given = np.asarray(loaded[path][-1] if spec.is_stacked else loaded[path])
        wanted = np.concatenate([x.T if spec.is_transposed else x for x in arrays], axis=-1)
        if not np.array_equal(given.view(np.uint16), wanted.reshape(given.shape).view(np.uint16)):
            raise SystemExit(f"{path} is not what the files hold")
    _say(what="compared the last layer with the files", parameters=len(model.param_specs.by_path))


def _write_checkpoint(model: Model, directory: Path) -> None:
    """Writes shards of SHARD_BYTES, in parallel, and their index."""
    block = (
        np.random.default_rng(0)
        .standard_normal(BLOCK_ELEMENTS, np.float32)
        .astype(jnp.bfloat16)
        .view(np.uint8)
    )
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    used = 0
    for name, shape in _tensor_shapes(model):
        size = 2 * math.prod(shape)
        if used + size > SHARD_BYTES and used:
            shards.append({})
            used = 0
        shards[-1][name] = shape
        used += size
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda file, shard: _write_shard(directory / file, shard, block.data), files, shards))


def _write_shard(file: Path, shapes: dict[str, tuple[int, ...]], block: memoryview) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with file.open("wb", buffering=0) as opened:
        opened.write(len(encoded).to_bytes(LENGTH_BYTES, "little") + encoded)
        while end:
            end -= opened.write(block[:end])


def _tensor_shapes(model: Model) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the stored tensors of the model's parameters, layer after layer."""
    specs = list(model.param_specs.by_path.values())
    for layer in range(model.config.num_layers):
        for spec in specs:
            for place in spec.places():
                number = spec.layers[place.indices[0]] if spec.is_stacked else 0
                if number != layer:
                    continue
                *others, _ = spec.entry_shape
                for name, tensor in zip(place.names, spec.tensors, strict=True):
                    shape = (*others, tensor.num_columns)
                    yield name, shape[::-1] if spec.is_transposed else shape


if __name__ == "__main__":
    main()
