"""Writers of quantized modules, and the weight [out, in] that each stands for: both from the formats'
definitions, bit by bit, with nothing of jinfer's."""

from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the integer in each nibble of a word, from the lowest on


@dataclass
class Module:
    """The tensors of a module by the last part of their names, and the weight that they stand for."""

    tensors: dict[str, np.ndarray]
    weight: np.ndarray


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """int32 [..., words]: the bits of the integers of the last axis one after the other, the lowest first."""
    ones = (values[..., None].astype(np.int64) >> np.arange(bits)) & 1
    stream = ones.reshape(*values.shape[:-1], -1)
    missing = -stream.shape[-1] % 32
    padded = np.concatenate([stream, np.zeros((*stream.shape[:-1], missing), stream.dtype)], axis=-1)
    return np.packbits(padded.astype(np.uint8), axis=-1, bitorder="little").view("<i4")


def awq_packed(values: np.ndarray) -> np.ndarray:
    """Eight columns in each word, in AWQ's order."""
    eights = values.reshape(values.shape[0], -1, 8)
    return packed(eights[:, :, AWQ_ORDER], 4)[:, :, 0]


def _grouped(q: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """W[n, k] = (q[k, n] - z[g(k), n]) * s[g(k), n], one input feature at a time."""
    weight = np.empty(q.shape[::-1], np.float32)
    for k, group in enumerate(groups):
        difference = q[k].astype(np.float32) - zeros[group].astype(np.float32)
        weight[:, k] = difference * scales[group].astype(np.float32)
    return weight


def _some_scales(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: object, bits: int = 4
) -> np.ndarray:
    return (rng.uniform(0.5, 1.5, shape) * 0.4 / 2 ** (bits - 1)).astype(dtype)


def awq(
    rng: np.random.Generator, num_outputs: int, num_inputs: int, group_size: int, *, zero_point: bool = True
) -> Module:
    size = num_inputs if group_size == -1 else group_size
    q = rng.integers(0, 16, (num_inputs, num_outputs))
    num_groups = num_inputs // size
    scales = _some_scales(rng, (num_groups, num_outputs), np.float16)
    zeros = rng.integers(0, 16, (num_groups, num_outputs)) if zero_point else np.full(scales.shape, 8)
    tensors = {"qweight": awq_packed(q), "scales": scales}
    if zero_point:
        tensors["qzeros"] = awq_packed(zeros)
    return Module(tensors, _grouped(q, zeros, scales, np.repeat(np.arange(num_groups), size)))


@dataclass
class InputOrder:
    """The groups of inputs in a random order, which modules that are packed one after the other share where
    they have as many inputs: as those of one layer that read the same activations."""

    previous: np.ndarray = field(default_factory=lambda: np.arange(0))

    def __call__(self, rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
        if len(self.previous) != len(groups):
            self.previous = rng.permutation(groups)
        return self.previous


def own_order(rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    return rng.permutation(groups)


def uneven_groups(rng: np.random.Generator, groups: np.ndarray) -> np.ndarray:
    """Each of some size."""
    return rng.choice(groups, len(groups))


Order = Callable[[np.random.Generator, np.ndarray], np.ndarray]


@dataclass
class Gptq:
    bits: int = 4
    group_size: int = 32
    desc_act: bool = False
    sym: bool = False
    version: int = 1
    with_g_idx: bool = True
    scale_dtype: object = np.float16
    order: Order = own_order

    def __call__(self, rng: np.random.Generator, num_outputs: int, num_inputs: int) -> Module:
        size = num_inputs if self.group_size == -1 else self.group_size
        groups = np.array([k // size for k in range(num_inputs)])
        if self.desc_act:
            groups = self.order(rng, groups)
        shape = (-(-num_inputs // size), num_outputs)
        highest = 2**self.bits - 1
        q = rng.integers(0, highest + 1, (num_inputs, num_outputs))
        zeros = np.full(shape, (highest + 1) // 2) if self.sym else rng.integers(0, highest + 1, shape)
        # The first version has z - 1 within its bits: 0 is stored as the highest number.
        stored = (zeros + highest) % (highest + 1) if self.version == 1 else zeros
        scales = _some_scales(rng, shape, self.scale_dtype, self.bits)
        tensors = {
            "qweight": np.ascontiguousarray(packed(q.T, self.bits).T),
            "qzeros": packed(stored, self.bits),
            "scales": scales,
        }
        if self.with_g_idx:
            tensors["g_idx"] = groups.astype(np.int32)
        return Module(tensors, _grouped(q, zeros, scales, groups))


@dataclass
class Compressed:
    """compressed-tensors: packed integers, plain ones, or e4m3."""

    bits: int = 4
    kind: str = "int"
    strategy: str = "group"
    group_size: int = 32
    block: tuple[int, int] = (128, 128)
    symmetric: bool = True
    is_packed: bool = True
    old_zero_points: bool = False
    actorder: bool = False
    scale_dtype: object = ml_dtypes.bfloat16
    flat_scale: bool = False
    order: Order = own_order

    def __call__(self, rng: np.random.Generator, num_outputs: int, num_inputs: int) -> Module:
        rows, columns = {
            "tensor": (num_outputs, num_inputs),
            "channel": (1, num_inputs),
            "group": (1, num_inputs if self.group_size == -1 else self.group_size),
            "block": self.block,
        }[self.strategy]
        row_group = np.array([n // rows for n in range(num_outputs)])
        column_group = np.array([k // columns for k in range(num_inputs)])
        if self.actorder:
            column_group = self.order(rng, column_group)
        shape = (row_group.max() + 1, column_group.max() + 1)
        codes, stored = self._codes(rng, num_outputs, num_inputs)
        half = 2 ** (self.bits - 1)
        zeros = np.zeros(shape, np.int64) if self.symmetric else rng.integers(-half, half, shape)
        scales = _some_scales(rng, shape, self.scale_dtype, self.bits if self.kind == "int" else 1)
        weight = np.empty((num_outputs, num_inputs), np.float32)
        for n in range(num_outputs):
            s = scales[row_group[n]].astype(np.float32)[column_group]
            z = zeros[row_group[n]].astype(np.float32)[column_group]
            weight[n] = (codes[n] - z) * s
        flat = scales.reshape(-1) if self.flat_scale else scales
        tensors = {**stored, "weight_scale": flat}
        if not self.symmetric:
            tensors["weight_zero_point"] = self._stored_zeros(zeros, half)
        if self.actorder:
            tensors["weight_g_idx"] = column_group.astype(np.int32)
        return Module(tensors, weight)

    def _codes(
        self, rng: np.random.Generator, num_outputs: int, num_inputs: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        shape = (num_outputs, num_inputs)
        if self.kind == "float":
            stored = rng.normal(0, 1, shape).astype(ml_dtypes.float8_e4m3fn)
            return stored.astype(np.float32), {"weight": stored}
        half = 2 ** (self.bits - 1)
        q = rng.integers(-half, half, shape)
        if not self.is_packed:
            return q.astype(np.float32), {"weight": q.astype(np.int8)}
        tensors = {"weight_packed": packed(q + half, self.bits), "weight_shape": np.array(shape, np.int64)}
        return q.astype(np.float32), tensors

    def _stored_zeros(self, zeros: np.ndarray, half: int) -> np.ndarray:
        if not self.is_packed or self.old_zero_points:
            return zeros.astype(np.int8)
        return np.ascontiguousarray(packed((zeros + half).T, self.bits).T)


def fp8(
    rng: np.random.Generator,
    num_outputs: int,
    num_inputs: int,
    block: tuple[int, int] | None,
    *,
    scale_dtype: object = np.float32,
    scalar: bool = True,
) -> Module:
    rows, columns = block or (num_outputs, num_inputs)
    stored = rng.normal(0, 1, (num_outputs, num_inputs)).astype(ml_dtypes.float8_e4m3fn)
    shape = (-(-num_outputs // rows), -(-num_inputs // columns))
    scales = _some_scales(rng, shape, scale_dtype, 1)
    weight = np.empty(stored.shape, np.float32)
    for n in range(num_outputs):
        for first in range(0, num_inputs, columns):
            part = stored[n, first : first + columns].astype(np.float32)
            weight[n, first : first + columns] = part * scales[n // rows, first // columns].astype(np.float32)
    if block is None:
        return Module({"weight": stored, "weight_scale": scales.reshape(() if scalar else (1,))}, weight)
    return Module({"weight": stored, "weight_scale_inv": scales}, weight)


E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def mxfp4_arrays(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes of two codes [..., out, in / 2], bytes of scales [..., out, in / 32], and the weight [..., out,
    in], one number at a time."""
    codes = rng.integers(0, 16, shape)
    scales = rng.integers(110, 130, (*shape[:-1], -(-shape[-1] // 32))).astype(np.uint8)
    weight = np.empty(shape, np.float32)
    for index in np.ndindex(shape):
        power = 2.0 ** (int(scales[(*index[:-1], index[-1] // 32)]) - 127)
        weight[index] = E2M1[codes[index]] * power
    return packed(codes, 4).view(np.uint8), scales, weight


def mxfp4_blocks(rng: np.random.Generator, num_outputs: int, num_inputs: int) -> Module:
    """As gpt-oss stores a parameter, here the weight of a Linear."""
    codes, scales, weight = mxfp4_arrays(rng, num_outputs, num_inputs)
    return Module({"weight_blocks": codes.reshape(*scales.shape, 16), "weight_scales": scales}, weight)


def mxfp4_packed(rng: np.random.Generator, num_outputs: int, num_inputs: int) -> Module:
    """As compressed-tensors stores a Linear."""
    codes, scales, weight = mxfp4_arrays(rng, num_outputs, num_inputs)
    return Module({"weight_packed": codes, "weight_scale": scales}, weight)
