"""Hugging Face checkpoints: safetensors, in one file or several with an index, tensor by tensor to the device.

At most two tensors are in host memory: one that is read, and one on its way to the device. On the device, each
parameter is allocated once and its tensors are written into their places, so that stacking layers and joining
projections needs no second copy.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  # teaches numpy bfloat16 and fp8, which safetensors needs to return them
import numpy as np
from jaxtyping import Array
from safetensors import SafetensorError, safe_open

from jinfer.errors import CheckpointError
from jinfer.models.model import Model, Params
from jinfer.models.weights import WeightSource, flatten, num_bytes, raise_faults, unflatten
from jinfer.progress import progress_bar

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)  # a buffer that old Llama checkpoints stored with the weights
SUPPORTED_DTYPES = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file, not read yet."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Placement:
    """Where a tensor of a checkpoint goes: parameter[layer, ..., column:column + size]."""

    path: str
    tensor_name: str
    layer: int | None
    column: int
    transposed: bool


def load_checkpoint(model: Model, directory: Path, *, progress: bool) -> Params:
    """The params of `model`, on the default device. Raises CheckpointError that names every tensor at fault."""
    tensors = _find_tensors(directory)
    placements = _place(model, tensors, directory)
    params = {path: jnp.zeros(x.shape, x.dtype) for path, x in flatten(model.abstract_params).items()}
    total = num_bytes(model.abstract_params)
    with progress_bar("loading weights", total=total, unit="B", unit_scale=True, enabled=progress) as bar:
        written = None
        for placement, tensor in _read_in_file_order(placements, tensors):
            jax.block_until_ready(written)  # or a slow device would let the tensors queue up in host memory
            target = params[placement.path]
            start = (0 if placement.layer is None else placement.layer, *(0,) * (target.ndim - 2), placement.column)
            written = params[placement.path] = _write(target, jnp.asarray(tensor), start, placement.transposed)
            bar.update(tensor.size * target.dtype.itemsize)
    return unflatten(params)


@jax.jit(donate_argnums=0, static_argnums=3)
def _write(target: Array, tensor: Array, start: tuple[Array, ...], transposed: bool) -> Array:
    """Puts the tensor, converted, at `start`; axes that the tensor has not are of size one."""
    piece = (tensor.T if transposed else tensor).astype(target.dtype)
    piece = piece.reshape((1,) * (target.ndim - piece.ndim) + piece.shape)
    return jax.lax.dynamic_update_slice(target, piece, start)


def _find_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by name, from the headers of its files."""
    tensors = {}
    for file in _shards(directory):
        for name, shape, dtype in _read_header(file):
            tensors[name] = Tensor(file, shape, dtype)
    return tensors


def _shards(directory: Path) -> list[Path]:
    index, single = directory / INDEX_FILE, directory / SINGLE_FILE
    if index.is_file():
        try:
            names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [directory / name for name in sorted(set(names))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is not an index of safetensors files: {error!r}; fetch it again") from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(f"{index} names {', '.join(missing)}, which {directory} lacks; fetch the model again")
        return files
    if single.is_file():
        return [single]
    raise CheckpointError(
        f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}; jinfer reads safetensors and Orbax checkpoints only"
    )


def _read_header(file: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    try:
        with safe_open(file, framework="numpy") as opened:
            for name in opened.keys():  # noqa: SIM118  # safe_open is no mapping
                header = opened.get_slice(name)
                yield name, tuple(header.get_shape()), header.get_dtype()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is truncated or corrupt ({error}); fetch it again") from error


def _place(model: Model, tensors: Mapping[str, Tensor], directory: Path) -> list[Placement]:
    """Which tensor goes where. Missing, extra and misshapen ones are one error."""
    placer = _Placer(tensors)
    shapes = flatten(model.abstract_params)
    for path, source in model.weight_sources.items():
        if source.is_stacked:
            for layer in range(model.config.num_layers):
                placer.place(path, source, layer, shapes[path].shape[1:])
        else:
            placer.place(path, source, None, tuple(n for n in shapes[path].shape if n != 1))
    ignored = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    placer.note_unused(ignored)
    raise_faults(placer.faults, str(directory))
    return placer.placements


class _Placer:
    """Lays tensors side by side in their parameters, and notes what does not fit."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.placements: list[Placement] = []
        self.faults: list[str] = []

    def place(self, path: str, source: WeightSource, layer: int | None, shape: tuple[int, ...]) -> None:
        """`shape` is that of the parameter, or of one layer of it."""
        names = [name.format(layer=layer) for name in source.tensor_names]
        column = 0
        for name in names:
            self.placements.append(Placement(path, name, layer, column, source.transposed))
            column += self._width(name, source, shape)
        if len(names) > 1 and column != shape[-1] and all(name in self._tensors for name in names):
            shapes = ", ".join(str(self._tensors[name].shape) for name in names)
            self.faults.append(f"{' + '.join(names)} have shapes {shapes}, but must have {shape[-1]} rows together")

    def _width(self, name: str, source: WeightSource, shape: tuple[int, ...]) -> int:
        """The columns that a tensor fills; 0 where it is missing."""
        if name not in self._tensors:
            self.faults.append(f"{name} is missing")
            return 0
        tensor = self._tensors[name]
        if tensor.dtype not in SUPPORTED_DTYPES:
            self.faults.append(f"{name} has dtype {tensor.dtype}, of which jinfer reads {', '.join(SUPPORTED_DTYPES)}")
        given = tensor.shape[::-1] if source.transposed else tensor.shape
        is_alone = len(source.tensor_names) == 1
        if len(given) != len(shape) or given[:-1] != shape[:-1] or (is_alone and given != shape):
            wanted = shape if is_alone else (*shape[:-1], "*")
            wanted = wanted[::-1] if source.transposed else wanted
            self.faults.append(f"{name} has shape {tensor.shape}, the model needs ({', '.join(map(str, wanted))})")
        return given[-1] if given else 0

    def note_unused(self, ignored: set[str]) -> None:
        """What the checkpoint holds and the model has no place for."""
        used = {placement.tensor_name for placement in self.placements}
        for name in self._tensors:
            if name not in used | ignored and not name.endswith(IGNORED_SUFFIXES):
                self.faults.append(f"{name} is not a tensor of the model")


def _read_in_file_order(
    placements: list[Placement], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[Placement, np.ndarray]]:
    """Each file is opened once, and its tensors are read one at a time."""
    by_file: dict[Path, list[Placement]] = {}
    for placement in placements:
        by_file.setdefault(tensors[placement.tensor_name].file, []).append(placement)
    for file, here in by_file.items():
        with safe_open(file, framework="numpy") as opened:
            for placement in here:
                yield placement, opened.get_tensor(placement.tensor_name)
