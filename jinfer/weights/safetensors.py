"""Hugging Face checkpoints: safetensors, in one file or several with an index, chunk by chunk to the
device."""

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinfer.errors import ConfigError
from jinfer.placement import Placement
from jinfer.weights.expert_tensors import with_expert_tensors
from jinfer.weights.fitted_weights import AS_STORED, FittedWeights, Target
from jinfer.weights.formats.checkpoint_format import dequantized
from jinfer.weights.formats.dequantized_tensor import DequantizedStack, DequantizedTensor
from jinfer.weights.formats.format_choice import find_format
from jinfer.weights.formats.kernel_choice import with_stored_types
from jinfer.weights.formats.kv_scales import with_kv_scales
from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import Params, raise_faults
from jinfer.weights.rounded_weights import rounded_tensor, with_rounded_types
from jinfer.weights.safetensors_directory import TensorFiles, find_tensors, open_source
from jinfer.weights.safetensors_layout import lay_out
from jinfer.weights.streaming import TensorSlice, fill_params
from jinfer.weights.text_model import text_model
from jinfer.weights.tied_params import have_same_values, untie


def load_checkpoint(specs: ParamSpecs, directory: Path, *, placement: Placement, progress: bool) -> Params:
    """The params of `specs` from the safetensors of a directory. Raises CheckpointError that names every
    tensor at fault; a head beside the embedding of a tied model is one, where its values are others
    (`fit_checkpoint` unties)."""
    files = TensorFiles(directory, find_tensors(directory))
    if specs.is_part:
        specs, files = text_model(specs, files)
    files = with_expert_tensors(specs, files)
    pairs = [_tied_names(specs, path) for path in _differing(specs, files)]
    faults = [f"{head} has other values than {embedding}, and the model is tied" for head, embedding in pairs]
    raise_faults(faults, str(directory))
    return _load(specs, lay_out(specs, files), placement=placement, progress=progress)


def fit_checkpoint(
    specs: ParamSpecs, origin: Path, raw: Mapping[str, Any], target: Target = AS_STORED
) -> FittedWeights:
    """The specs of a model with a head as it is stored, kernels of the types that `target` asks for and the
    scales of its cache, and where its weights are in the files of `origin`, which is model.safetensors or an
    index. The config.json `raw` says whether they are quantized.

    Nothing is read but headers, and what has to be looked at: the head beside the embedding of a tied model,
    biases that the model does not have, the order of groups, the scales of the cache. Raises CheckpointError
    that names every tensor at fault, UnsupportedModelError for a format that jinfer does not read, and
    ConfigError for quantized weights that are to be quantized.
    """
    files = open_source(origin)
    if specs.is_part:
        specs, files = text_model(specs, files)
    stored_as = find_format(origin.parent, raw, files.tensors.keys())
    quantized_as = None
    if stored_as is not None:
        specs, files = with_kv_scales(specs, files, stored_as.kv_scheme, target.kv_cache_dtype)
        files = dequantized(files, stored_as)
        is_quantized = any(
            isinstance(tensor, DequantizedTensor | DequantizedStack) for tensor in files.tensors.values()
        )
        quantized_as = stored_as.title if is_quantized else None
    files = with_expert_tensors(specs, files)
    for path in _differing(specs, files):
        specs = untie(specs, path, stored_as=_tied_names(specs, path))
    specs, files = _with_types(specs, files, target, quantized_as)
    load = functools.partial(_load, specs, lay_out(specs, files))
    return FittedWeights(specs, load, quantized_as)


def _with_types(
    specs: ParamSpecs, files: TensorFiles, target: Target, quantized_as: str | None
) -> tuple[ParamSpecs, TensorFiles]:
    """The specs with the types of kernels, and the tensors that they are made of."""
    if target.rounding is None:
        if target.as_floats or quantized_as is None:
            return specs, files
        specs, tensors = with_stored_types(specs, files.tensors)
        return specs, replace(files, tensors=tensors)
    if quantized_as is not None:
        raise ConfigError(
            f"quantization is given, and the weights in {files.origin} are quantized already "
            f"({quantized_as}); leave it out, or use the model that they were made of"
        )
    specs = with_rounded_types(specs, target.rounding)
    names = {name for path in specs.kernel_types for name in specs.by_path[path].tensor_names()}
    tensors = {
        name: rounded_tensor(tensor, target.rounding) if name in names and len(tensor.shape) == 2 else tensor
        for name, tensor in files.tensors.items()
    }
    return specs, replace(files, tensors=tensors)


def _load(specs: ParamSpecs, slices: list[TensorSlice], *, placement: Placement, progress: bool) -> Params:
    """Tensors are read by several threads, in the order of the files, while others are on their way to the
    device (`streaming.fill_params` says how much host memory that takes)."""
    return specs.tree(fill_params(specs.placed(placement), slices, placement, progress=progress))


def _differing(specs: ParamSpecs, files: TensorFiles) -> list[str]:
    """The paths whose tied parameter is stored, too, with other values."""
    pairs = {path: _tied_names(specs, path) for path in specs.tied}
    stored = {path: pair for path, pair in pairs.items() if all(name in files.tensors for name in pair)}
    return [
        path for path, pair in stored.items() if not have_same_values(*(files.tensors[name] for name in pair))
    ]


def _tied_names(specs: ParamSpecs, path: str) -> tuple[str, str]:
    """The tensors of the parameter that is tied to `path`, and of `path` itself."""
    (tensor,) = specs.by_path[path].tensors
    return specs.tied[path].tensor_name, tensor.name
