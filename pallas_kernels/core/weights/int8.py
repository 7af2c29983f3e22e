"""Weights in int8, with a scale for each output or for each group of its inputs."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int8, Int32

from pallas_kernels.core.weights.activations import STATIC, Activations
from pallas_kernels.core.weights.eight_bits import EightBits
from pallas_kernels.core.weights.scaling import in_order, largest_magnitudes, spread_groups

LARGEST_INT8 = 127


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Int8Weight(EightBits):
    """w[permutation[i], o] = (values[o, i] - zeros[g, o]) * scales[g, o] with g = i // group_size.

    No zeros are zeros of 0, and no permutation is that of i to i. Where all inputs are one group there is a
    scale for each output. GPTQ's unsigned codes and zeros, less 128 each, are these, once an order of
    activations has become a permutation as of `Int4Weight`. One for each layer where there is a first axis.
    The inputs of an output lie side by side: tensor cores take operands of 8 bits in no other order.

    `activations` other than "float" need one group, no zeros and no permutation; "static" needs
    `input_scale`.
    """

    values: Int8[Array, "*layers out in"]
    scales: Float[Array, "*layers groups out"]
    group_size: int = field(metadata=STATIC)
    zeros: Int8[Array, "*layers groups out"] | None = None
    input_scale: Float32[Array, "*layers"] | None = None
    activations: Activations = field(default="float", metadata=STATIC)
    permutation: Int32[Array, "*layers in"] | None = None

    @classmethod
    def of(
        cls,
        w: Float[Array, "*layers in out"],
        *,
        group_size: int | None = None,
        activations: Activations = "float",
        input_scale: Float32[Array, "*layers"] | None = None,
    ) -> "Int8Weight":
        """The nearest to w: scales are the largest magnitude of a group / 127. One group where `group_size`
        is None."""
        turned = w.swapaxes(-1, -2)
        group_size = group_size or turned.shape[-1]
        scales = largest_magnitudes(turned, group_size) / LARGEST_INT8
        codes = jnp.round(turned.astype(jnp.float32) / spread_groups(scales, group_size, turned.shape[-1]))
        values = jnp.clip(codes, -LARGEST_INT8, LARGEST_INT8).astype(jnp.int8)
        return cls(values, scales, group_size, None, input_scale, activations)

    def dequantized(self, dtype: DTypeLike = jnp.float32) -> Float[Array, "*layers in out"]:
        """The array it stands for, computed in float32 and rounded once."""
        codes = self.values.astype(jnp.float32)
        if self.zeros is not None:
            codes = codes - spread_groups(self.zeros.astype(jnp.float32), self.group_size, self.num_in)
        scales = spread_groups(self.scales.astype(jnp.float32), self.group_size, self.num_in)
        return in_order((codes * scales).swapaxes(-1, -2).astype(dtype), self.permutation)
