"""Stored weights and the parameters that they fill, before anything large is read."""

from collections.abc import Callable
from dataclasses import dataclass

from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import Params


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """`load(placement=..., progress=...)` brings the parameters of `specs` to devices. It raises
    CheckpointError. `quantized_as` is the name of the format of quantized weights, which become floats while
    they are loaded."""

    specs: ParamSpecs
    load: Callable[..., Params]
    quantized_as: str | None = None
