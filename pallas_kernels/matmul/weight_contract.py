"""The rules that a quantized weight must keep for a product to take it."""

from collections.abc import Mapping

from jaxtyping import Array

from pallas_kernels.core.weights import (
    BlockFp8Weight,
    Fp8Weight,
    Int4Weight,
    Int8Weight,
    Mxfp4Weight,
    QuantizedWeight,
)
from pallas_kernels.core.weights.int4 import ZEROS_OF_A_WORD


def check_weight(w: QuantizedWeight) -> None:
    """Raises ValueError where the arrays of a weight are not of one matrix, or cannot multiply activations as
    it says."""
    for name, (array, shape) in _shapes(w).items():
        if array is not None and array.shape != (*w.shape[:-2], *shape):
            raise ValueError(
                f"{name} of {type(w).__name__} has shape {array.shape}; for weights of {w.shape} it must be "
                f"{(*w.shape[:-2], *shape)}"
            )
    problem = _problem_of_activations(w)
    if problem is not None:
        raise ValueError(f"{type(w).__name__} with activations={w.activations!r}: {problem}")


def _shapes(w: QuantizedWeight) -> Mapping[str, tuple[Array | None, tuple[int, ...]]]:
    """The arrays beside the values, and the shape of each in a matrix."""
    if isinstance(w, BlockFp8Weight):
        return {"scales": (w.scales, w.scales_shape)}
    if isinstance(w, Fp8Weight):
        return {"scales": (w.scales, (w.num_out,)), "input_scale": (w.input_scale, ())}
    num_groups = -(-w.num_in // w.group_size)
    groups = num_groups, w.num_out
    if isinstance(w, Mxfp4Weight):
        return {"scales": (w.scales, groups)}
    grouped: dict[str, tuple[Array | None, tuple[int, ...]]] = {
        "scales": (w.scales, groups),
        "permutation": (w.permutation, (w.num_in,)),
    }
    if isinstance(w, Int4Weight):
        words = -(-num_groups // ZEROS_OF_A_WORD), w.num_out
        return {**grouped, "packed_zeros": (w.packed_zeros, words)}
    return {**grouped, "zeros": (w.zeros, groups), "input_scale": (w.input_scale, ())}


def _problem_of_activations(w: QuantizedWeight) -> str | None:
    if w.activations not in ("float", "dynamic", "static"):
        return "it is 'float', 'dynamic' or 'static'"
    if w.activations == "static" and getattr(w, "input_scale", None) is None:
        return "it needs input_scale, the scale that was calibrated"
    is_grouped = isinstance(w, Int8Weight) and (w.zeros is not None or w.group_size < w.num_in)
    if w.activations != "float" and is_grouped:
        return "integers are summed before they are scaled, so there can be no zeros and one group only"
    if w.activations != "float" and getattr(w, "permutation", None) is not None:
        return "they are quantized in the order of the inputs, so there can be no permutation"
    return None
