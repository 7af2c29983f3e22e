"""Stored weights and the parameters that they fill, before anything large is read."""

from collections.abc import Callable
from dataclasses import dataclass

from jinfer.weights.param_spec import ParamSpecs
from jinfer.weights.params import Params
from jinfer.weights.rounded_weights import Rounding


@dataclass(frozen=True)
class Target:
    """The types that kernels are to have: those that `rounding` gives them; or those in which they are
    stored, or floats, where `as_floats`. A cache of `kv_cache_dtype` has the scales that are stored for
    it."""

    rounding: Rounding | None = None
    as_floats: bool = False
    kv_cache_dtype: str = "auto"


AS_STORED = Target()


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """`load(placement=..., progress=...)` brings the parameters of `specs` to devices. It raises
    CheckpointError. `quantized_as` is the name of the format of quantized weights."""

    specs: ParamSpecs
    load: Callable[..., Params]
    quantized_as: str | None = None
