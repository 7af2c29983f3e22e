"""The layout of a checkpoint's tensors in the parameters of a model, and the faults of those that do not
fit."""

import logging

import numpy as np

from jinfer.weights.formats.dequantized_tensor import DequantizedTensor
from jinfer.weights.formats.kernel_parts import kernel_parts
from jinfer.weights.harmless_tensors import is_harmless
from jinfer.weights.kernel_part import KernelPart
from jinfer.weights.param_spec import ParamSpec, ParamSpecs, Place
from jinfer.weights.params import named, raise_faults
from jinfer.weights.rounded_weights import Rounding, rounded_tensor
from jinfer.weights.safetensors_directory import TensorFiles
from jinfer.weights.safetensors_file import SUPPORTED_DTYPES
from jinfer.weights.streaming import TensorSlice
from jinfer.weights.tensor_source import STREAMED_DTYPES, HostTensor, StoredTensor

logger = logging.getLogger(__name__)


def lay_out(specs: ParamSpecs, files: TensorFiles) -> list[TensorSlice]:
    """The slices that tensors fill, in the order of the files. A tensor of a tied parameter stands for the
    other's, where that is absent, and is left out beside it: it is a copy. Missing, extra and misshapen
    tensors are one CheckpointError."""
    layout = _Layout(files)
    for path, spec in specs.by_path.items():
        for place in spec.places():
            layout.add(path, spec, place)
    layout.note_unused(specs)
    raise_faults(layout.faults, str(files.origin))
    return [each for name in files.tensors for each in layout.slices.get(name, ())]


def tensor_names(specs: ParamSpecs) -> set[str]:
    """The names of all tensors that the parameters are made of, as Hugging Face has them."""
    return {name for spec in specs.by_path.values() for name in spec.tensor_names()}


def tensor_slices(
    tensor: StoredTensor, path: str, spec: ParamSpec, indices: tuple[int, ...], column: int
) -> list[TensorSlice]:
    """The slices of a parameter's arrays that a tensor fills, in an entry of a stack and from a column on."""
    if spec.kernel_type is None:
        start = (*indices, *(0,) * (len(spec.entry_shape) - 1), column)
        return [TensorSlice(tensor, path, start, spec.is_transposed != tensor.is_turned)]
    assert isinstance(tensor, DequantizedTensor), "a kernel with a type is made of quantized tensors"
    num_in, num_out = spec.entry_shape
    parts = spec.kernel_type.parts(num_in, num_out)
    return [
        TensorSlice(
            each.source,
            f"{path}/{name}",
            (*indices, *_part_start(parts[name], column, num_out)),
            each.is_transposed,
        )
        for name, each in kernel_parts(tensor, spec.kernel_type).items()
    ]


def rounded_slices(path: str, spec: ParamSpec, kernel: np.ndarray, rounding: Rounding) -> list[TensorSlice]:
    """The slices of a kernel's arrays, of a whole stack [layers, in, out] of floats in host memory."""
    dtype = kernel.dtype if kernel.dtype in STREAMED_DTYPES else np.dtype(np.float32)
    return [
        each
        for index, matrix in enumerate(kernel)
        for each in tensor_slices(
            rounded_tensor(HostTensor(matrix.T, dtype), rounding), path, spec, (index,), 0
        )
    ]


def _part_start(part: KernelPart, column: int, num_out: int) -> tuple[int, ...]:
    """The first index of a module in a part: blocks of outputs are as many columns further."""
    start = [0] * len(part.shape)
    if part.out_axis is not None:
        outputs_each = -(-num_out // part.shape[part.out_axis])
        start[part.out_axis] = column // outputs_each
    return tuple(start)


class _Layout:
    """Lays tensors side by side in their parameters, and notes what does not fit."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._tensors = files.tensors
        self.slices: dict[str, list[TensorSlice]] = {}
        self.faults: list[str] = []
        self._wanted: set[str] = set()

    def add(self, path: str, spec: ParamSpec, place: Place) -> None:
        """Adds the tensors of an entry of a stack, or of a whole parameter, from column 0 on."""
        names = self._stored_names(spec, place)
        column = 0
        for name, tensor in zip(names, spec.tensors, strict=True):
            self._check(name, spec)
            if name in self._tensors:
                self.slices[name] = tensor_slices(self._tensors[name], path, spec, place.indices, column)
            column += tensor.num_columns
        if len(names) > 1 and all(name in self._tensors for name in names):
            self._check_joined(names, spec)

    def _stored_names(self, spec: ParamSpec, place: Place) -> tuple[str, ...]:
        tied, tensors = spec.tied, self._tensors
        if tied is not None and tied.tensor_name in tensors and place.names[0] not in tensors:
            return (tied.tensor_name,)
        return place.names

    def _check(self, name: str, spec: ParamSpec) -> None:
        """Notes a tensor that is missing, of another dtype or of another shape, but for the columns of a
        joined one."""
        self._wanted.add(name)
        if name not in self._tensors:
            file = self._files.absent.get(name)
            where = "" if file is None else f": the index gives it to {file.name}, which lacks it"
            self.faults.append(f"{name} is missing{where}")
            return
        tensor = self._tensors[name]
        if tensor.dtype_name not in SUPPORTED_DTYPES:
            self.faults.append(
                f"{name} has dtype {tensor.dtype_name}, of which jinfer reads {', '.join(SUPPORTED_DTYPES)}"
            )
        shape = spec.entry_shape
        given = tensor.checkpoint_shape[::-1] if spec.is_transposed else tensor.checkpoint_shape
        is_alone = len(spec.tensors) == 1
        if len(given) != len(shape) or given[:-1] != shape[:-1] or (is_alone and given != shape):
            wanted = shape if is_alone else (*shape[:-1], "*")
            wanted = wanted[::-1] if spec.is_transposed else wanted
            self.faults.append(
                f"{name} has shape {tensor.checkpoint_shape}, the model needs ({', '.join(map(str, wanted))})"
            )

    def _check_joined(self, names: tuple[str, ...], spec: ParamSpec) -> None:
        """Notes tensors side by side that do not divide the columns as the model does."""
        shapes = [self._tensors[name].checkpoint_shape for name in names]
        axis = 0 if spec.is_transposed else -1
        if [shape[axis] if shape else 0 for shape in shapes] != [
            tensor.num_columns for tensor in spec.tensors
        ]:
            each = ", ".join(str(tensor.num_columns) for tensor in spec.tensors)
            self.faults.append(
                f"{' + '.join(names)} have shapes {', '.join(map(str, shapes))}, but must have "
                f"{spec.shape[-1]} rows together: {each}"
            )

    def note_unused(self, specs: ParamSpecs) -> None:
        """Notes tensors that the checkpoint holds, or its index promises, and the model does not have."""
        copies = {tied.tensor_name for tied in specs.tied.values()}
        left_over = [name for name in self._tensors if name not in self.slices]
        harmless = [
            name for name in left_over if name in copies or is_harmless(name, self._tensors[name], specs)
        ]
        self.faults += [f"{name} is not a tensor of the model" for name in left_over if name not in harmless]
        self.faults += [
            f"{name} is not in {file.name}, to which the index gives it"
            for name, file in self._files.absent.items()
            if name not in self._wanted and name not in copies and not specs.ignores(name)
        ]
        if harmless:
            logger.info("left out of %s, since it changes nothing: %s", self._files.origin, named(harmless))
