"""Scales of a product's inputs that make its weights, or its inputs, easier to round."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jinfer.quantization.folds import Features, Fold
from jinfer.quantization.layer_inputs import InputStatistics
from jinfer.quantization.schemes import Scheme

Kernel = Float32[np.ndarray, "in out"]
NUM_STEPS = 20  # of the exponent, from 0 to 1
SMOOTHING = 0.5  # the exponent of SmoothQuant, which halves the difficulty between inputs and weights
SMALLEST = 1e-4  # of a feature that is next to never used


class ScaleChoice(Protocol):
    """A way to choose the scales of a product's inputs."""

    def __call__(self, kernel: Kernel, inputs: InputStatistics, fold: Fold) -> Features: ...


def smoothing_scales(kernel: Kernel, inputs: InputStatistics, fold: Fold) -> Features:
    """max|x| ** a / max|w| ** (1 - a) of each input feature (Xiao et al., "SmoothQuant", 2023): the inputs'
    outliers go to the weights, where each output has a scale of its own."""
    of_inputs = np.maximum(fold.max(inputs.max), SMALLEST)
    of_weights = np.maximum(fold.max(np.abs(kernel).max(axis=1)), SMALLEST)
    return of_inputs**SMOOTHING / of_weights ** (1 - SMOOTHING)


class ActivationAwareSearch:
    """The scales with which rounded weights come nearest to the product of the float ones (Lin et al., "AWQ",
    2024).

    Tried are mean|x| ** a, and that over mean|w| ** (1 - a), for a between 0 and 1, and no scales at all, so
    that what is chosen is no worse than rounding on the rows of calibration.
    """

    def __init__(self, scheme: Scheme, scale_dtype: np.dtype) -> None:
        self._scheme = scheme
        self._scale_dtype = scale_dtype

    def __call__(self, kernel: Kernel, inputs: InputStatistics, fold: Fold) -> Features:
        candidates = _candidates(kernel, fold.mean(inputs.mean), fold)
        errors = _output_errors(
            jnp.asarray(kernel),
            jnp.asarray(inputs.rows),
            jnp.asarray(candidates),
            self._scheme,
            self._scale_dtype,
        )
        return candidates[int(np.argmin(errors))]


def _candidates(kernel: Kernel, of_inputs: Features, fold: Fold) -> Float32[np.ndarray, "candidates in"]:
    of_weights = np.maximum(fold.mean(np.abs(kernel).mean(axis=1)), SMALLEST)
    of_inputs = np.maximum(of_inputs, SMALLEST)
    exponents = np.linspace(0, 1, NUM_STEPS + 1)[1:, None]
    tried = np.concatenate([of_inputs**exponents, of_inputs**exponents / of_weights ** (1 - exponents)])
    centered = tried / np.sqrt(tried.max(axis=1, keepdims=True) * tried.min(axis=1, keepdims=True))
    return np.concatenate([np.ones((1, len(of_inputs))), centered]).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _output_errors(
    kernel: Float32[Array, "in out"],
    rows: Float32[Array, "samples in"],
    candidates: Float32[Array, "candidates in"],
    scheme: Scheme,
    scale_dtype: np.dtype,
) -> Float32[Array, " candidates"]:
    """The squared error of the outputs of `rows` that rounding the scaled weights makes, one candidate after
    the other: the memory is that of one."""

    def error(scales: Array) -> Array:
        rounded = scheme.rounded((kernel * scales[:, None]).T, scale_dtype).T / scales[:, None]
        return jnp.sum((rows @ (rounded - kernel)) ** 2)

    return jax.lax.map(error, candidates)
