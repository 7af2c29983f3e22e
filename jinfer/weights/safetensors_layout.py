"""Where the tensors of a checkpoint go in the parameters of a model, and what is said of those that do not fit."""

import logging

from jinfer.models.model import Model
from jinfer.weights.harmless_tensors import is_computed, is_harmless
from jinfer.weights.params import EMBEDDING, WeightSource, flatten, named, raise_faults
from jinfer.weights.safetensors_directory import TensorFiles
from jinfer.weights.safetensors_file import SUPPORTED_DTYPES
from jinfer.weights.streaming import Part

logger = logging.getLogger(__name__)


def place(model: Model, files: TensorFiles) -> list[Part]:
    """Which tensor goes where, in the order of the files. The head of a tied model stands for an embedding that is
    absent, and is left out beside it: it is a copy. Missing, extra and misshapen tensors are one CheckpointError."""
    placer = _Placer(files)
    shapes = flatten(model.abstract_params)
    for path, source in model.weight_sources.items():
        for layer in range(model.config.num_layers) if source.is_stacked else (None,):
            placer.place(path, source, layer, shapes[path].shape)
    placer.note_unused(model.weight_sources[EMBEDDING].tied_name)
    raise_faults(placer.faults, str(files.origin))
    return [placer.parts[name] for name in files.tensors if name in placer.parts]


def tensor_names(model: Model) -> set[str]:
    """The names of all tensors that a model's parameters are made of, as Hugging Face has them."""
    layers = range(model.config.num_layers)
    names = [name for source in model.weight_sources.values() for name in source.tensor_names]
    return {name.format(layer=layer) for name in names for layer in layers}


class _Placer:
    """Lays tensors side by side in their parameters, and notes what does not fit."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._tensors = files.tensors
        self.parts: dict[str, Part] = {}
        self.faults: list[str] = []
        self._wanted: set[str] = set()

    def place(self, path: str, source: WeightSource, layer: int | None, param_shape: tuple[int, ...]) -> None:
        """Into parameter[layer, ..., column:], from column 0 on."""
        shape = tuple(n for n in param_shape if n != 1) if layer is None else param_shape[1:]
        names = [name.format(layer=layer) for name in self._stored_names(source)]
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

    def _stored_names(self, source: WeightSource) -> tuple[str, ...]:
        is_other = source.tied_name in self._tensors and source.tensor_names[0] not in self._tensors
        return (str(source.tied_name),) if is_other else source.tensor_names

    def _width(self, name: str, source: WeightSource, shape: tuple[int, ...]) -> int:
        """The columns that a tensor fills; 0 where it is missing."""
        self._wanted.add(name)
        if name not in self._tensors:
            file = self._files.absent.get(name)
            where = "" if file is None else f": the index gives it to {file.name}, which lacks it"
            self.faults.append(f"{name} is missing{where}")
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

    def note_unused(self, head_copy: str | None) -> None:
        """What the checkpoint holds, or its index promises, and the model has no place for."""
        left_over = [name for name in self._tensors if name not in self.parts]
        harmless = [name for name in left_over if name == head_copy or is_harmless(name, self._tensors[name])]
        self.faults += [f"{name} is not a tensor of the model" for name in left_over if name not in harmless]
        self.faults += [
            f"{name} is not in {file.name}, to which the index gives it"
            for name, file in self._files.absent.items()
            if name not in self._wanted and name != head_copy and not is_computed(name)
        ]
        if harmless:
            logger.info("left out of %s, since it changes nothing: %s", self._files.origin, named(harmless))
