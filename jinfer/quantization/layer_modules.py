"""The parameters of a decoder layer by layer, and the Linears that a checkpoint has of each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jinfer.models.config import LayerConfig
from jinfer.models.model import Model
from jinfer.models.params import LayerStack, layer_stacks
from jinfer.quantization.folds import LayerWeights
from jinfer.weights.param_spec import ParamSpec
from jinfer.weights.params import Params, flatten

PER_LAYER = "{layer}"  # in the names of tensors that each layer has
WEIGHT = ".weight"


@dataclass(frozen=True)
class TensorPlace:
    """A tensor of a checkpoint by its name, and the columns of a parameter that it fills."""

    name: str
    columns: slice

    def of(self, parameter: np.ndarray, spec: ParamSpec) -> np.ndarray:
        """The tensor as a checkpoint has it."""
        taken = parameter[..., self.columns]
        return taken.T if spec.is_transposed else taken


def tensor_places(spec: ParamSpec, layer: int) -> Iterator[TensorPlace]:
    """The tensors that make up a parameter of a layer, side by side."""
    first = 0
    for tensor in spec.tensors:
        yield TensorPlace(tensor.name.format(layer=layer), slice(first, first + tensor.num_columns))
        first += tensor.num_columns


@dataclass(frozen=True, eq=False)
class ModelLayer:
    """One layer: its number, its kind, and its parameters by their paths in its stack, which may hold other
    parameters too."""

    number: int
    config: LayerConfig
    specs: Mapping[str, ParamSpec]
    stacked: Mapping[str, Any]
    index: int

    def weights(self) -> LayerWeights:
        """The parameters on the host, float32."""
        return {path: np.asarray(self.stacked[path][self.index]).astype(np.float32) for path in self.specs}


def model_layers(model: Model, params: Params) -> Iterator[ModelLayer]:
    """The layers in their order."""
    stacks = layer_stacks(model.config)
    by_number = {number: stack for stack in stacks for number in stack.layers}
    for number, config in enumerate(model.config.layers):
        stack = by_number[number]
        yield ModelLayer(
            number,
            config,
            _specs_of(stack, model),
            flatten(stack.params(params)),
            stack.layers.index(number),
        )


def _specs_of(stack: LayerStack, model: Model) -> dict[str, ParamSpec]:
    """The parameters of a stack by their paths in it."""
    prefix = stack.path("")
    return {
        path.removeprefix(prefix): spec
        for path, spec in model.param_specs.by_path.items()
        if path.startswith(prefix) and PER_LAYER in spec.tensors[0].name
    }


def other_tensors(model: Model, params: Params) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors that belong to no layer, as a checkpoint has them."""
    flat = flatten(params)
    for path, spec in model.param_specs.by_path.items():
        if PER_LAYER not in spec.tensors[0].name:
            (place,) = tensor_places(spec, 0)
            whole = np.asarray(flat[path])
            yield place.name, place.of(whole[0] if spec.is_stacked else whole, spec)
