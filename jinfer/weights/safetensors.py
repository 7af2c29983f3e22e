"""Hugging Face checkpoints: safetensors, in one file or several with an index, piece by piece to the device."""

import functools
from pathlib import Path

import jax

from jinfer.models.config import ModelConfig
from jinfer.models.model import Model, Params
from jinfer.weights.fitted_weights import Build, FittedWeights
from jinfer.weights.params import EMBEDDING, WeightSource, flatten, raise_faults, unflatten
from jinfer.weights.safetensors_directory import TensorFiles, find_tensors, open_source
from jinfer.weights.safetensors_layout import place
from jinfer.weights.streaming import Part, fill_params
from jinfer.weights.tied_head import have_same_values, untied


def load_checkpoint(model: Model, directory: Path, *, progress: bool) -> Params:
    """The params of `model` from the safetensors of a directory. Raises CheckpointError that names every tensor at
    fault; a head beside the embedding of a tied model is one, where its values are others (`fit_checkpoint` unties)."""
    files = TensorFiles(directory, find_tensors(directory))
    embedding = model.weight_sources[EMBEDDING]
    if _has_own_head(embedding, files):
        fault = f"{embedding.tied_name} has other values than {embedding.tensor_names[0]}, and the model is tied"
        raise_faults([fault], str(directory))
    return _load(model, place(model, files), progress=progress)


def fit_checkpoint(config: ModelConfig, build: Build, origin: Path) -> FittedWeights:
    """The model of a config with a head as it is stored, and where its weights are in the files of `origin`, which is
    model.safetensors or an index.

    Nothing is read but headers, and what has to be looked at: the head beside the embedding of a tied model, biases
    that the model has no place for. Raises CheckpointError that names every tensor at fault.
    """
    files = open_source(origin)
    model = build(config)
    embedding = model.weight_sources[EMBEDDING]
    if _has_own_head(embedding, files):
        model = build(untied(config, str(embedding.tied_name), embedding.tensor_names[0]))
    return FittedWeights(model, functools.partial(_load, model, place(model, files)))


def _load(model: Model, parts: list[Part], *, progress: bool) -> Params:
    """Tensors are read by several threads, in the order of the files, while others are on their way to the device
    (`streaming.fill_params` says how much host memory that takes)."""
    return unflatten(fill_params(flatten(model.abstract_params), parts, jax.devices()[0], progress=progress))


def _has_own_head(embedding: WeightSource, files: TensorFiles) -> bool:
    name, tied_name = embedding.tensor_names[0], embedding.tied_name
    if tied_name is None or name not in files.tensors or tied_name not in files.tensors:
        return False
    return not have_same_values(files.tensors[name], files.tensors[tied_name])
