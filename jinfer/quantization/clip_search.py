"""Scales of groups of weights below what their largest weight asks for: it is cut off, and all others are
rounded in finer steps."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jinfer.quantization.schemes import Int4Scheme, Tensors

SMALLEST_RATIO, NUM_STEPS = 0.5, 20
RATIOS = (1.0, 7.5 / 7, *np.linspace(1, SMALLEST_RATIO, NUM_STEPS + 1)[1:].tolist())
"""The tried shares of max|w| / 7.5. The whole is the first, and so is kept where no other is better; the
second reaches a positive maximum, for which the largest code is 7."""


@dataclass(frozen=True)
class ClipSearch:
    """The scale of each output and group of inputs with which the group's share of the output comes nearest
    to that of the float weights (the search for a clipping threshold of Lin et al., "AWQ", 2024).

    The error is the squared one over rows of calibration. None is larger than with the scale max|w| / 7.5.
    """

    scheme: Int4Scheme
    scale_dtype: np.dtype

    def quantize(self, w: Float32[np.ndarray, "out in"], rows: Float32[np.ndarray, "samples in"]) -> Tensors:
        """The tensors that are stored of a weight whose product reads inputs like `rows`."""
        return self.scheme.quantize(w, self.scale_dtype, self.ratios(w, rows))

    def ratios(
        self, w: Float32[np.ndarray, "out in"], rows: Float32[np.ndarray, "samples in"]
    ) -> Float32[np.ndarray, "out groups"]:
        """The share of max|w| / 7.5 that each scale is, one of RATIOS."""
        errors = group_errors(jnp.asarray(w), jnp.asarray(rows), self.scheme, self.scale_dtype)
        return np.array(RATIOS, np.float32)[np.asarray(jnp.argmin(errors, axis=0))]


@functools.partial(jax.jit, static_argnums=(2, 3))
def group_errors(
    w: Float32[Array, "out in"],
    rows: Float32[Array, "samples in"],
    scheme: Int4Scheme,
    scale_dtype: np.dtype,
) -> Float32[Array, "ratios out groups"]:
    """The squared error over `rows` of the share that each group has in each output, for each of RATIOS.

    |x d|^2 over rows x is d' (X' X) d, where d is what rounding changes: one product of the inputs serves
    all outputs and ratios.
    """
    inputs = scheme.grouped(rows)
    products = jnp.einsum("ngi,ngj->gij", inputs, inputs, precision="highest")

    def errors(ratio: Array) -> Array:
        ratios = jnp.full(scheme.grouped(w).shape[:2], ratio)
        change = scheme.grouped(scheme.rounded(w, scale_dtype, ratios) - w)
        return jnp.sum(jnp.einsum("ogi,gij->ogj", change, products, precision="highest") * change, axis=-1)

    return jax.lax.map(errors, jnp.array(RATIOS, jnp.float32))
