"""Scales of a product's inputs, and what before it takes them in: the layer computes the same.

y = W x = (W s) (x / s), and x / s is what the norm or the product before gives when it is divided by s. The
idea is that of Xiao et al., "SmoothQuant" (2023), and of Lin et al., "AWQ" (2024).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from jinfer.models.config import LayerConfig

LayerWeights = dict[str, np.ndarray]
"""The parameters of one layer by path, float32: kernels [in, out], and vectors."""
Features = Float32[np.ndarray, " in"]


@dataclass(frozen=True)
class Fold:
    """The place that takes in the scales of the inputs of `target`: what the norm or the product at `source`
    gives from column `first` on.

    Where heads share keys and values, each of `num_groups` blocks of columns is read by `repeats` blocks of
    the target's inputs, which so have one scale. A norm multiplies by `norm_offset` and its parameter.
    """

    target: str
    source: str
    first: int = 0
    num_groups: int = 1
    repeats: int = 1
    norm_offset: float = 0.0

    def mean(self, statistic: Features) -> Features:
        """The mean over the inputs that read the same column, repeated for each of them."""
        return self._repeated(self._blocks(statistic).mean(axis=1, keepdims=True))

    def max(self, statistic: Features) -> Features:
        """The maximum over the inputs that read the same column, repeated for each of them."""
        return self._repeated(self._blocks(statistic).max(axis=1, keepdims=True))

    def apply(
        self, weights: LayerWeights, scales: Features, dtype: np.dtype
    ) -> tuple[LayerWeights, Features]:
        """The weights with the scales folded in, and the scales as they are: a norm is rounded to `dtype`, in
        which it is stored, and the scales follow from what it is then. Those of inputs that read the same
        column must be equal."""
        taken = self._blocks(scales)[:, 0].reshape(-1)
        changed = dict(weights)
        if self.source.endswith("/scale"):
            norm = self.norm_offset + weights[self.source]
            stored = (norm / taken - self.norm_offset).astype(dtype).astype(np.float32)
            divided = self.norm_offset + stored
            can_be = (divided != 0) & np.isfinite(divided)
            changed[self.source] = np.where(can_be, stored, weights[self.source])
            taken = np.where(can_be, norm / np.where(can_be, divided, 1), 1)
        else:
            columns = slice(self.first, self.first + len(taken))
            for path in (f"{self.source}/kernel", f"{self.source}/bias"):
                if path in weights:
                    changed[path] = weights[path].copy()
                    changed[path][..., columns] /= taken
        whole = self._repeated(taken.reshape(self.num_groups, 1, -1))
        changed[f"{self.target}/kernel"] = weights[f"{self.target}/kernel"] * whole[:, None]
        return changed, whole

    def _blocks(self, x: Features) -> np.ndarray:
        """[num_groups, repeats, columns]."""
        return x.reshape(self.num_groups, self.repeats, -1)

    def _repeated(self, blocks: np.ndarray) -> Features:
        return np.repeat(blocks, self.repeats, axis=1).reshape(-1)


def folds_of(config: LayerConfig, norm_offset: float = 0.0) -> tuple[Fold, ...]:
    """The folds of a decoder's layer: norm and q, k, v; norm and gate, up, where it has norms before these; v
    and o, where values are no keys, have no norm and are the layer's own; up and down."""
    attention = config.grouped_attention
    num_before_values = (attention.num_heads + attention.num_kv_heads) * attention.head_dim
    group_size = attention.num_heads // attention.num_kv_heads
    norms = (
        Fold("attention/qkv", "attention_norm/scale", norm_offset=norm_offset),
        Fold("mlp/gate_up", "mlp_norm/scale", norm_offset=norm_offset),
    )
    values = Fold(
        "attention/output",
        "attention/qkv",
        first=num_before_values,
        num_groups=attention.num_kv_heads,
        repeats=group_size,
    )
    takes_values = not (attention.has_value_norm or attention.keys_are_values) and attention.kv_layer is None
    return (
        *(norms if config.has_pre_norms else ()),
        *((values,) if takes_values else ()),
        Fold("mlp/down", "mlp/gate_up", first=config.mlp.intermediate_size),
    )
