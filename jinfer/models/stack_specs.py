"""The specs of parameters that a stack of layers has, by what each is: a norm, a vector, a projection."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp

from jinfer.weights.param_spec import (
    EXPERTS,
    JOINED,
    LAYERS,
    CheckpointTensor,
    FusedTensor,
    Init,
    ParamSpec,
)


class Axis(NamedTuple):
    """A logical axis and its size."""

    name: str
    size: int


@dataclass(frozen=True)
class StackSpecs:
    """Parameters of the same layers, stacked as [num_layers, ...]; `prefix` begins the names of their
    tensors."""

    dtype: jnp.dtype
    layers: tuple[int, ...]
    prefix: str = "model.layers.{layer}."
    norm_init: Init = "ones"

    def norm(self, name: str, features: Axis) -> ParamSpec:
        """The scale of a norm over `features`."""
        return self.vector(f"{name}.weight", features, init=self.norm_init)

    def vector(self, name: str, features: Axis, *, init: Init) -> ParamSpec:
        """A vector of each layer, of one tensor."""
        tensor = CheckpointTensor(f"{self.prefix}{name}", features.name, features.size)
        return ParamSpec(
            shape=(len(self.layers), features.size),
            dtype=self.dtype,
            axes=(LAYERS, features.name),
            init=init,
            tensors=(tensor,),
            layers=self.layers,
        )

    def projection(
        self, path: str, inputs: Axis, outputs: Mapping[str, Axis], *, bias: bool
    ) -> dict[str, ParamSpec]:
        """A kernel [in, out], and a bias, of which checkpoints have one [out, in] tensor for each of
        `outputs`."""
        num_outputs = sum(axis.size for axis in outputs.values())
        (out, *others) = [axis.name for axis in outputs.values()]
        kernel = ParamSpec(
            shape=(len(self.layers), inputs.size, num_outputs),
            dtype=self.dtype,
            axes=(LAYERS, inputs.name, JOINED if others else out),
            init="normal",
            tensors=self._tensors(outputs, "weight"),
            is_transposed=True,
            layers=self.layers,
        )
        specs = {f"{path}/kernel": kernel}
        if bias:
            specs[f"{path}/bias"] = ParamSpec(
                shape=(len(self.layers), num_outputs),
                dtype=self.dtype,
                axes=(LAYERS, JOINED if others else out),
                init="zeros",
                tensors=self._tensors(outputs, "bias"),
                layers=self.layers,
            )
        return specs

    def expert_projection(
        self,
        path: str,
        num_experts: int,
        inputs: Axis,
        outputs: Mapping[str, Axis],
        *,
        fused: FusedTensor,
        bias: bool,
    ) -> dict[str, ParamSpec]:
        """A kernel [experts, in, out] of each layer, and a bias [experts, out], of which checkpoints have one
        tensor for each expert and each of `outputs`, or a `fused` one, whose bias ends in `_bias`."""
        specs = self.projection(path, inputs, outputs, bias=bias)
        name = f"{self.prefix}{fused.name}"
        of_fused = {f"{path}/kernel": name, f"{path}/bias": f"{name}_bias"}
        return {
            path: replace(
                spec,
                shape=(spec.shape[0], num_experts, *spec.shape[1:]),
                axes=(LAYERS, EXPERTS, *spec.axes[1:]),
                fused=replace(fused, name=of_fused[path]),
                stays_float=True,
            )
            for path, spec in specs.items()
        }

    def _tensors(self, outputs: Mapping[str, Axis], kind: str) -> tuple[CheckpointTensor, ...]:
        return tuple(
            CheckpointTensor(f"{self.prefix}{name}.{kind}", axis.name, axis.size)
            for name, axis in outputs.items()
        )


def joined_outputs(names: tuple[str, ...], axes: tuple[Axis, ...]) -> dict[str, Axis]:
    """The outputs that each tensor of a projection holds: those of an axis, or a single one all of them."""
    if len(names) == 1:
        return {names[0]: Axis(JOINED, sum(axis.size for axis in axes))}
    return dict(zip(names, axes, strict=True))
