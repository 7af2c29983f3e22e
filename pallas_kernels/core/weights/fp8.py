"""Weights in float8_e4m3fn, with a scale for each output or for each block of 128 x 128."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from pallas_kernels.core.weights.activations import STATIC, Activations
from pallas_kernels.core.weights.eight_bits import EightBits
from pallas_kernels.core.weights.scaling import SMALLEST_MAGNITUDE, ceil_div, largest_magnitudes

FP8 = jnp.float8_e4m3fn
LARGEST_FP8 = 448
BLOCK_SIZE = 128  # inputs and outputs that share a scale


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Fp8Weight(EightBits):
    """w[i, o] = values[o, i] * scales[o]; a scale of the whole matrix is repeated. One for each layer where
    there is a first axis. "static" activations need `input_scale`."""

    values: Float[Array, "*layers out in"]
    scales: Float32[Array, "*layers out"]
    input_scale: Float32[Array, "*layers"] | None = None
    activations: Activations = field(default="float", metadata=STATIC)

    @classmethod
    def of(
        cls,
        w: Float[Array, "*layers in out"],
        *,
        activations: Activations = "float",
        input_scale: Float32[Array, "*layers"] | None = None,
    ) -> "Fp8Weight":
        """The nearest to w: scales are the largest magnitude of an output's weights / 448."""
        turned = w.swapaxes(-1, -2)
        scales = largest_magnitudes(turned, turned.shape[-1])[..., 0, :] / LARGEST_FP8
        return cls(_rounded(turned, scales[..., None]), scales, input_scale, activations)

    def dequantized(self, dtype: DTypeLike = jnp.float32) -> Float[Array, "*layers in out"]:
        """The array it stands for, computed in float32 and rounded once."""
        wide = self.values.astype(jnp.float32) * self.scales[..., None]
        return wide.swapaxes(-1, -2).astype(dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class BlockFp8Weight(EightBits):
    """w[i, o] = values[o, i] * scales[o // 128, i // 128], as DeepSeek-V3 and Qwen3-FP8 store it. One for
    each layer where there is a first axis.

    `activations` are "float" or "dynamic", which gives each 128 inputs of a row a scale.
    """

    values: Float[Array, "*layers out in"]
    scales: Float32[Array, "*layers out_blocks in_blocks"]
    activations: Activations = field(default="float", metadata=STATIC)

    @classmethod
    def of(cls, w: Float[Array, "*layers in out"], *, activations: Activations = "float") -> "BlockFp8Weight":
        """The nearest to w: scales are the largest magnitude of a block / 448."""
        turned = w.swapaxes(-1, -2)
        num_out, num_in = turned.shape[-2:]
        by_output = largest_magnitudes(turned, BLOCK_SIZE).swapaxes(-1, -2)
        by_output = jnp.pad(by_output, [(0, 0)] * (w.ndim - 2) + [(0, -num_out % BLOCK_SIZE), (0, 0)])
        blocks = by_output.reshape(*by_output.shape[:-2], -1, BLOCK_SIZE, by_output.shape[-1])
        scales = jnp.maximum(blocks.max(-2), SMALLEST_MAGNITUDE) / LARGEST_FP8
        return cls(_rounded(turned, _spread_blocks(scales, num_out, num_in)), scales, activations)

    @property
    def scales_shape(self) -> tuple[int, int]:
        """The blocks of a matrix, of which those at its ends may be smaller: (out_blocks, in_blocks)."""
        return ceil_div(self.num_out, BLOCK_SIZE), ceil_div(self.num_in, BLOCK_SIZE)

    def dequantized(self, dtype: DTypeLike = jnp.float32) -> Float[Array, "*layers in out"]:
        """The array it stands for, computed in float32 and rounded once."""
        scales = _spread_blocks(self.scales, self.num_out, self.num_in)
        return (self.values.astype(jnp.float32) * scales).swapaxes(-1, -2).astype(dtype)


def _rounded(turned: Array, scales: Array) -> Array:
    """The nearest values to `turned` / scales."""
    return jnp.clip(turned.astype(jnp.float32) / scales, -LARGEST_FP8, LARGEST_FP8).astype(FP8)


def _spread_blocks(scales: Array, num_out: int, num_in: int) -> Array:
    """[..., out_blocks, in_blocks] -> [..., out, in]."""
    by_row = jnp.repeat(scales, BLOCK_SIZE, axis=-2)[..., :num_out, :]
    return jnp.repeat(by_row, BLOCK_SIZE, axis=-1)[..., :num_in]
