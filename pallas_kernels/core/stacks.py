"""The rules for stacks of the matrices of groups, [layers, groups, in, out], such as experts."""

from typing import get_args

from jaxtyping import Array

from pallas_kernels.core.gating import Activation, ClampedSwiglu, ExpertActivation
from pallas_kernels.core.selection import UnsupportedError
from pallas_kernels.core.weights import BlockFp8Weight, Fp8Weight, Mxfp4Weight, QuantizedWeight, Weight

QUANTIZED_TYPES = (Fp8Weight, BlockFp8Weight, Mxfp4Weight)


def check_activation(activation: ExpertActivation) -> None:
    """Raises ValueError for an unknown one."""
    if not isinstance(activation, ClampedSwiglu) and activation not in get_args(Activation):
        raise ValueError(
            f"activation={activation!r} is none of a gate's: give one of {get_args(Activation)} or a "
            "ClampedSwiglu"
        )


def check_stack_types(x: Array, stacks: dict[str, Weight]) -> None:
    """Raises UnsupportedError for weights that no implementation serves, or that differ from x."""
    for name, w in stacks.items():
        if not isinstance(w, QuantizedWeight):
            if x.dtype != w.dtype:
                raise UnsupportedError(
                    f"x in {x.dtype} and {name} in {w.dtype}: no implementation mixes dtypes; cast x"
                )
        elif not isinstance(w, QUANTIZED_TYPES):
            known = ", ".join(kind.__name__ for kind in QUANTIZED_TYPES)
            raise UnsupportedError(
                f"{name} is of {type(w).__name__}: matrices of groups are served in {known}, or as arrays"
            )
        elif w.activations != "float":
            raise UnsupportedError(
                f"{name} with activations={w.activations!r}: x is not quantized here; make it of "
                'activations="float"'
            )
