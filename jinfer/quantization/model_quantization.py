"""A model's weights as the tensors of a quantized checkpoint, one layer after the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jinfer.models.decoder_layers import Layers
from jinfer.models.model import Model
from jinfer.quantization.calibration import Calibration
from jinfer.quantization.clip_search import ClipSearch
from jinfer.quantization.folds import Features, LayerWeights, folds_of
from jinfer.quantization.layer_inputs import InputStatistics, run_layer
from jinfer.quantization.layer_modules import WEIGHT, ModelLayer, model_layers, other_tensors, tensor_places
from jinfer.quantization.scale_search import ScaleChoice
from jinfer.quantization.schemes import Scheme, Tensors
from jinfer.weights.param_spec import ParamSpec
from jinfer.weights.params import Params, unflatten

Hidden = list[Float32[Array, "tokens features"]]
KERNEL = "/kernel"
NamedTensor = tuple[str, np.ndarray]


def refused_modules(model: Model, scheme: Scheme) -> tuple[dict[str, str], int]:
    """The reason of each module that a scheme does not take, by name, and the number of all modules."""
    kernels = [spec for spec in model.param_specs.by_path.values() if spec.is_transposed]
    reasons = [(spec, scheme.refusal(spec.entry_shape[0])) for spec in kernels]
    refused = {
        name.removesuffix(WEIGHT): reason
        for spec, reason in reasons
        if reason is not None
        for name in spec.tensor_names()
    }
    return refused, sum(len(list(spec.tensor_names())) for spec in kernels)


@dataclass(frozen=True, eq=False)
class QuantizationPlan:
    """A scheme, the dtype of scales and of what stays as it is, and what calibration is for: scales of inputs
    that are folded into what is before, where `choose_scales` is given, scales of weights that `clip_search`
    finds, where it is given, and scales of activations that are stored, where `is_static`."""

    scheme: Scheme
    dtype: np.dtype
    calibration: Calibration | None = None
    choose_scales: ScaleChoice | None = None
    clip_search: ClipSearch | None = None
    is_static: bool = False


@dataclass(frozen=True, eq=False)
class ModelQuantization:
    """The tensors of a quantized checkpoint."""

    model: Model
    params: Params
    plan: QuantizationPlan

    def tensors(self) -> Iterator[NamedTensor]:
        """All tensors by name, as they are written; nothing that is large is kept of them."""
        for name, tensor in other_tensors(self.model, self.params):
            yield name, tensor.astype(self.plan.dtype)
        hidden = self._embedded()
        for layer in model_layers(self.model, self.params):
            weights, seen = layer.weights(), dict[str, InputStatistics]()
            if self.plan.calibration is not None:
                hidden, seen = run_layer(self._layers(weights), layer.config, hidden)
            yield from self._layer_tensors(layer, weights, seen)

    def _embedded(self) -> Hidden:
        embedding, scale = self.params["embedding"]["kernel"], self.model.config.embedding_scale
        windows = () if self.plan.calibration is None else self.plan.calibration.windows
        return [jnp.asarray(embedding[np.array(window)], jnp.float32) * scale for window in windows]

    def _layers(self, weights: LayerWeights) -> Layers:
        stacked = unflatten({path: jnp.asarray(x[None]) for path, x in weights.items()})
        return Layers.of(stacked, self.model.config, "xla")

    def _layer_tensors(
        self, layer: ModelLayer, weights: LayerWeights, seen: dict[str, InputStatistics]
    ) -> Iterator[NamedTensor]:
        weights, scales = self._folded(layer, weights, seen)
        for path, spec in layer.specs.items():
            target = path.removesuffix(KERNEL)
            for place in tensor_places(spec, layer.number):
                tensor = place.of(weights[path], spec)
                if not self._is_taken(spec):
                    yield place.name, tensor.astype(self.plan.dtype)
                    continue
                module = place.name.removesuffix(WEIGHT)
                stored = self._quantized(tensor, seen.get(target), scales.get(target))
                yield from ((f"{module}.{leaf}", x) for leaf, x in stored.items())
                if self.plan.is_static:
                    yield f"{module}.input_scale", self._input_scale(seen[target], scales.get(target))

    def _is_taken(self, spec: ParamSpec) -> bool:
        """True for the kernels that are quantized."""
        return spec.is_transposed and self.plan.scheme.refusal(spec.entry_shape[0]) is None

    def _folded(
        self, layer: ModelLayer, weights: LayerWeights, seen: dict[str, InputStatistics]
    ) -> tuple[LayerWeights, dict[str, Features]]:
        """The weights with the scales of inputs folded into what is before, and the scales by product."""
        scales: dict[str, Features] = {}
        if self.plan.choose_scales is None:
            return weights, scales
        for fold in folds_of(layer.config, self.model.config.norm_offset):
            if self._is_taken(layer.specs[fold.target + KERNEL]):
                chosen = self.plan.choose_scales(weights[fold.target + KERNEL], seen[fold.target], fold)
                weights, scales[fold.target] = fold.apply(weights, chosen, self.plan.dtype)
        return weights, scales

    def _quantized(self, w: np.ndarray, inputs: InputStatistics | None, scales: Features | None) -> Tensors:
        """The tensors that are stored of a weight [out, in], whose inputs are divided by `scales`."""
        if self.plan.clip_search is None or inputs is None:
            return self.plan.scheme.quantize(w, self.plan.dtype)
        return self.plan.clip_search.quantize(w, inputs.rows if scales is None else inputs.rows / scales)

    def _input_scale(self, inputs: InputStatistics, scales: Features | None) -> np.ndarray:
        """The scale that the largest input of calibration just does not exceed, [1]."""
        largest = inputs.max if scales is None else inputs.max / scales
        assert self.plan.scheme.activation_max is not None
        scale = np.array([largest.max() / self.plan.scheme.activation_max], np.float32).astype(
            self.plan.dtype
        )
        return np.where(scale > 0, scale, np.ones_like(scale))
