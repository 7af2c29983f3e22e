"""The schemes that `jinfer convert` writes: what each stores of a Linear, and how compressed-tensors
describes it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from jinfer.weights.rounding import (
    FLOAT8_MAX,
    float8_scales,
    integer_scales,
    rounded_float8,
    rounded_integers,
)

WORD_BITS = 32
Tensors = dict[str, np.ndarray]
"""Tensors of a Linear by the last part of their names."""
Entry = dict[str, Any]
Ratios = Float[Any, "out groups"] | float
"""One for each group of a weight, or one for all."""


class Scheme(ABC):
    """A way to store a Linear's weight [out, in], and its inputs' scale where activations are quantized.

    `format` is compressed-tensors' name of the layout, and `activation_max` the largest code of an input,
    None where inputs stay floats.
    """

    format: str
    activation_max: float | None

    @abstractmethod
    def weight_args(self) -> Entry:
        """The `weights` of a group of config_groups."""

    @abstractmethod
    def quantize(self, w: Float32[np.ndarray, "out in"], scale_dtype: np.dtype) -> Tensors:
        """The tensors that are stored of a weight, with scales of `scale_dtype`."""

    @abstractmethod
    def rounded(self, w: Float[Any, "out in"], scale_dtype: np.dtype) -> Float[Any, "out in"]:
        """The weight that is stored for a weight, as float32; of numpy or of jax.numpy."""

    def refusal(self, num_inputs: int) -> str | None:
        """The reason why a Linear of so many inputs stays as it is; None where it does not."""
        return None

    def activation_args(self, *, is_static: bool) -> Entry | None:
        """The `input_activations` of a group: a scale for each token, or one that is stored."""
        if self.activation_max is None:
            return None
        strategy = "tensor" if is_static else "token"
        return {**self._numbers(), "strategy": strategy, "dynamic": not is_static}

    @abstractmethod
    def _numbers(self) -> Entry:
        """The kind of the codes."""


@dataclass(frozen=True)
class Int8Scheme(Scheme):
    """int8 with a scale for each output, and int8 inputs (W8A8)."""

    format = "int-quantized"
    activation_max = 127.0

    def weight_args(self) -> Entry:
        return {**self._numbers(), "strategy": "channel", "dynamic": False}

    def quantize(self, w: np.ndarray, scale_dtype: np.dtype) -> Tensors:
        scales = integer_scales(w, 8, scale_dtype)
        return {"weight": rounded_integers(w, scales, 8), "weight_scale": scales}

    def rounded(self, w: Any, scale_dtype: np.dtype) -> Any:
        scales = integer_scales(w, 8, scale_dtype)
        return rounded_integers(w, scales, 8).astype(np.float32) * scales.astype(np.float32)

    def _numbers(self) -> Entry:
        return {"num_bits": 8, "type": "int", "symmetric": True}


@dataclass(frozen=True)
class Fp8Scheme(Scheme):
    """e4m3 with a scale for each output, and e4m3 inputs (W8A8)."""

    format = "float-quantized"
    activation_max = FLOAT8_MAX

    def weight_args(self) -> Entry:
        return {**self._numbers(), "strategy": "channel", "dynamic": False}

    def quantize(self, w: np.ndarray, scale_dtype: np.dtype) -> Tensors:
        scales = float8_scales(w, scale_dtype)
        return {"weight": rounded_float8(w, scales), "weight_scale": scales}

    def rounded(self, w: Any, scale_dtype: np.dtype) -> Any:
        scales = float8_scales(w, scale_dtype)
        return rounded_float8(w, scales).astype(np.float32) * scales.astype(np.float32)

    def _numbers(self) -> Entry:
        return {"num_bits": 8, "type": "float", "symmetric": True}


@dataclass(frozen=True)
class Int4Scheme(Scheme):
    """Four bits with a scale for each output and `group_size` inputs, packed; inputs stay floats (W4A16)."""

    group_size: int

    format = "pack-quantized"
    activation_max = None

    def weight_args(self) -> Entry:
        return {**self._numbers(), "strategy": "group", "group_size": self.group_size, "dynamic": False}

    def quantize(self, w: np.ndarray, scale_dtype: np.dtype, ratios: Ratios = 1.0) -> Tensors:
        """The tensors that are stored of a weight, with scales of `scale_dtype`, each of them `ratios` times
        the one that the largest weight of its group asks for."""
        codes, scales = self._coded(w, scale_dtype, ratios)
        return {
            "weight_packed": packed_words(codes.reshape(w.shape), 4),
            "weight_scale": scales[..., 0],
            "weight_shape": np.array(w.shape, np.int64),
        }

    def rounded(self, w: Any, scale_dtype: np.dtype, ratios: Ratios = 1.0) -> Any:
        codes, scales = self._coded(w, scale_dtype, ratios)
        return (codes.astype(np.float32) * scales.astype(np.float32)).reshape(w.shape)

    def grouped(self, x: Any) -> Any:
        """Rows of weights or of inputs, [rows, in], as [rows, groups, group_size]."""
        return x.reshape(x.shape[0], -1, self.group_size)

    def refusal(self, num_inputs: int) -> str | None:
        if num_inputs % self.group_size == 0:
            return None
        return f"{num_inputs} inputs are no multiple of the group size {self.group_size}"

    def _coded(self, w: Any, scale_dtype: np.dtype, ratios: Ratios) -> tuple[Any, Any]:
        """The codes, [out, groups, group_size], and their scales, [out, groups, 1]."""
        groups = self.grouped(w)
        each = ratios if isinstance(ratios, float) else ratios[..., None]
        scales = integer_scales(groups * each, 4, scale_dtype)
        return rounded_integers(groups, scales, 4), scales

    def _numbers(self) -> Entry:
        return {"num_bits": 4, "type": "int", "symmetric": True}


def packed_words(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 [rows, ceil(columns * bits / 32)]: codes + 2 ** (bits - 1), the first in the lowest bits, and
    zeros where the last word of a row is not filled.

    In: -8, -7, ..., -1
    Out: 0x76543210
    """
    per_word = WORD_BITS // bits
    stored = np.pad(codes.astype(np.int64) + 2 ** (bits - 1), ((0, 0), (0, -codes.shape[1] % per_word)))
    places = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    fields = stored.astype(np.uint32).reshape(len(codes), -1, per_word) << places
    return np.bitwise_or.reduce(fields, axis=2).view(np.int32)


def scheme_of(name: str, group_size: int) -> Scheme:
    """The scheme of a name that `--quantize` takes."""
    return _SCHEMES[name](group_size)


_SCHEMES: Mapping[str, Any] = {
    "int8": lambda group_size: Int8Scheme(),
    "fp8": lambda group_size: Fp8Scheme(),
    "int4": Int4Scheme,
}
SCHEME_NAMES = tuple(_SCHEMES)
