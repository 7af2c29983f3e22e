"""Hugging Face checkpoints: safetensors, in one file or several with an index, piece by piece to the device."""

from collections.abc import Mapping
from pathlib import Path

import jax

from jinfer.models.model import Model, Params
from jinfer.models.tensor_files import SUPPORTED_DTYPES, FileTensor, find_tensors
from jinfer.models.weight_stream import Part, fill_params
from jinfer.models.weights import WeightSource, flatten, raise_faults, unflatten

IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)  # a buffer that old Llama checkpoints stored with the weights


def load_checkpoint(model: Model, directory: Path, *, progress: bool) -> Params:
    """The params of `model`, on the default device. Raises CheckpointError that names every tensor at fault.

    Tensors are read by several threads, in the order of the files, while others are on their way to the device
    (`weight_stream.fill_params` says how much host memory that takes).
    """
    parts = _place(model, find_tensors(directory), directory)
    return unflatten(fill_params(flatten(model.abstract_params), parts, jax.devices()[0], progress=progress))


def _place(model: Model, tensors: Mapping[str, FileTensor], directory: Path) -> list[Part]:
    """Which tensor goes where, in the order of the files. Missing, extra and misshapen ones are one error."""
    placer = _Placer(tensors)
    shapes = flatten(model.abstract_params)
    for path, source in model.weight_sources.items():
        for layer in range(model.config.num_layers) if source.is_stacked else (None,):
            placer.place(path, source, layer, shapes[path].shape)
    ignored = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    placer.note_unused(ignored)
    raise_faults(placer.faults, str(directory))
    return [placer.parts[name] for name in tensors if name in placer.parts]


class _Placer:
    """Lays tensors side by side in their parameters, and notes what does not fit."""

    def __init__(self, tensors: Mapping[str, FileTensor]) -> None:
        self._tensors = tensors
        self.parts: dict[str, Part] = {}
        self.faults: list[str] = []

    def place(self, path: str, source: WeightSource, layer: int | None, param_shape: tuple[int, ...]) -> None:
        """Into parameter[layer, ..., column:], from column 0 on."""
        shape = tuple(n for n in param_shape if n != 1) if layer is None else param_shape[1:]
        names = [name.format(layer=layer) for name in source.tensor_names]
        column = 0
        for name in names:
            width = self._width(name, source, shape)
            if name in self._tensors:
                start = (layer or 0, *(0,) * (len(param_shape) - 2), column)
                self.parts[name] = Part(self._tensors[name], path, start, source.transposed)
            column += width
        if len(names) > 1 and column != shape[-1] and all(name in self._tensors for name in names):
            shapes = ", ".join(str(self._tensors[name].shape) for name in names)
            self.faults.append(f"{' + '.join(names)} have shapes {shapes}, but must have {shape[-1]} rows together")

    def _width(self, name: str, source: WeightSource, shape: tuple[int, ...]) -> int:
        """The columns that a tensor fills; 0 where it is missing."""
        if name not in self._tensors:
            self.faults.append(f"{name} is missing")
            return 0
        tensor = self._tensors[name]
        if tensor.dtype_name not in SUPPORTED_DTYPES:
            self.faults.append(
                f"{name} has dtype {tensor.dtype_name}, of which jinfer reads {', '.join(SUPPORTED_DTYPES)}"
            )
        given = tensor.shape[::-1] if source.transposed else tensor.shape
        is_alone = len(source.tensor_names) == 1
        if len(given) != len(shape) or given[:-1] != shape[:-1] or (is_alone and given != shape):
            wanted = shape if is_alone else (*shape[:-1], "*")
            wanted = wanted[::-1] if source.transposed else wanted
            self.faults.append(f"{name} has shape {tensor.shape}, the model needs ({', '.join(map(str, wanted))})")
        return given[-1] if given else 0

    def note_unused(self, ignored: set[str]) -> None:
        """What the checkpoint holds and the model has no place for."""
        for name in self._tensors:
            if name not in self.parts.keys() | ignored and not name.endswith(IGNORED_SUFFIXES):
                self.faults.append(f"{name} is not a tensor of the model")
